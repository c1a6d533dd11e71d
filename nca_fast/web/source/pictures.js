// Pictures that automata redraw: files, the camera, and one that is drawn here.

/**
 * Scales a picture to a canvas, cutting off what does not fit.
 * @param {CanvasImageSource} source
 * @param {number} sourceWidth
 * @param {number} sourceHeight
 * @param {number} width
 * @param {number} height
 * @param {boolean} mirrored
 * @returns {ImageData}
 */
export function fitted(source, sourceWidth, sourceHeight, width, height, mirrored = false) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  const scale = Math.max(width / sourceWidth, height / sourceHeight);
  const [w, h] = [sourceWidth * scale, sourceHeight * scale];
  if (mirrored) {
    context.translate(width, 0);
    context.scale(-1, 1);
  }
  context.drawImage(source, (width - w) / 2, (height - h) / 2, w, h);
  return context.getImageData(0, 0, width, height);
}

/** Hills below a sun, for automata that have no picture yet. @param {number} width @param {number} height */
export function landscape(width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const sky = context.createLinearGradient(0, 0, 0, height);
  sky.addColorStop(0, "#27508a");
  sky.addColorStop(0.45, "#d98a6a");
  sky.addColorStop(0.62, "#f7d9a0");
  context.fillStyle = sky;
  context.fillRect(0, 0, width, height);
  context.fillStyle = "#fff3cf";
  context.beginPath();
  context.arc(0.66 * width, 0.42 * height, 0.1 * Math.min(width, height), 0, 7);
  context.fill();
  const hills = [
    { color: "#8a6f8e", base: 0.55, rise: 0.1, waves: 2.1 },
    { color: "#4f6a72", base: 0.68, rise: 0.08, waves: 3.3 },
    { color: "#2b4a3f", base: 0.82, rise: 0.07, waves: 4.7 },
  ];
  hills.forEach(({ color, base, rise, waves }, i) => {
    context.fillStyle = color;
    context.beginPath();
    context.moveTo(0, height);
    for (let x = 0; x <= width; x++) {
      const t = (x / width) * Math.PI;
      context.lineTo(x, height * (base - rise * (Math.sin(waves * t + i) + 0.4 * Math.sin(2.7 * waves * t + 2 * i))));
    }
    context.lineTo(width, height);
    context.fill();
  });
  return context.getImageData(0, 0, width, height);
}

/** The camera, until it is stopped. */
export class Camera {
  /** @param {HTMLVideoElement} video */
  constructor(video) {
    this.video = video;
  }

  async start() {
    if (!navigator.mediaDevices) throw new Error("This browser lets no page of a file use the camera. Open a picture instead.");
    this.stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user", width: 640 } });
    this.video.srcObject = this.stream;
    await this.video.play();
  }

  /** @returns {ImageData|null} */
  frame(width, height) {
    const { videoWidth, videoHeight } = this.video;
    return videoWidth ? fitted(this.video, videoWidth, videoHeight, width, height, true) : null;
  }

  stop() {
    if (this.stream) this.stream.getTracks().forEach((track) => track.stop());
    this.video.srcObject = null;
  }
}
