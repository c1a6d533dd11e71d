// What is taken home: pictures, films, files.

/** @param {Blob} blob @param {string} name */
export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** @param {ImageData} picture @returns {Promise<Blob>} */
export function png(picture) {
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  canvas.getContext("2d").putImageData(picture, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

/** A film of what is on a canvas. */
export class Recorder {
  /**
   * @param {HTMLCanvasElement} canvas
   * @throws {Error} A sentence: this browser cannot.
   */
  constructor(canvas) {
    const kinds = ["video/webm;codecs=vp9", "video/webm;codecs=vp8", "video/webm", "video/mp4"];
    const type = typeof MediaRecorder === "undefined" ? undefined : kinds.find((kind) => MediaRecorder.isTypeSupported(kind));
    if (!type || !canvas.captureStream) throw new Error("This browser cannot record films.");
    this.type = type;
    this.stream = canvas.captureStream(30);
    this.recorder = new MediaRecorder(this.stream, { mimeType: type, videoBitsPerSecond: 16e6 });
    /** @type {Blob[]} */
    this.parts = [];
    this.recorder.ondataavailable = (event) => this.parts.push(event.data);
    this.recorder.start(1000);
  }

  /** @returns {Promise<Blob>} Rejected with a sentence where no frame came. */
  stop() {
    return new Promise((resolve, reject) => {
      this.recorder.onstop = () => {
        const film = new Blob(this.parts, { type: this.type.split(";")[0] });
        if (film.size) resolve(film);
        else reject(new Error("Nothing was recorded: let the film run for a moment longer."));
      };
      this.recorder.stop();
      this.stream.getTracks().forEach((track) => track.stop());
    });
  }
}
