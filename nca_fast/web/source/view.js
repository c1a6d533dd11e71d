// A world on the screen.

import hexagon from "./hexagon.glsl" with { type: "text" };
import viewShader from "./view.glsl" with { type: "text" };
import { Target, Texture } from "./gl.js";

/** Where on a canvas the screen looks, and how. */
export class View {
  /** @param {import("./gl.js").Device} device */
  constructor(device) {
    this.device = device;
    this.middle = [0, 0]; // x, y of a place, as Scene.extent has them
    this.zoom = 1; // pixels of the page for 1 of these
    this.smoothed = true;
    this.everyChannel = false;
    this.repeated = true;
    this.ground = [0.5, 0.5, 0.5];
  }

  /** Shows all of a canvas, filling the screen where it goes on beyond its edges. */
  fit(scene, width, height) {
    const [across, down] = scene.extent;
    const ratios = [width / across, height / down];
    this.zoom = this.fills(scene) ? Math.max(...ratios) : Math.min(...ratios) * 0.94;
    this.middle = [across / 2, down / 2];
  }

  /** Whether the canvas goes on beyond its edges. */
  fills(scene) {
    return this.repeated && scene.repeats && !this.everyChannel;
  }

  /** The place under a pixel. */
  place(x, y, width, height) {
    return [this.middle[0] + (x - width / 2) / this.zoom, this.middle[1] + (y - height / 2) / this.zoom];
  }

  /** Zooms so that what is under a pixel stays there. */
  zoomAt(factor, x, y, width, height) {
    const before = this.place(x, y, width, height);
    this.zoom = Math.min(Math.max(this.zoom * factor, 0.25), 128);
    const after = this.place(x, y, width, height);
    this.middle = this.middle.map((place, i) => place + before[i] - after[i]);
  }

  /**
   * Draws.
   * @param {import("./scene.js").Scene} scene
   * @param {Target|null} target  null: the canvas of the page.
   * @param {{width: number, height: number, middle: number[], zoom: number, smoothed: boolean}} how
   */
  draw(scene, target, how) {
    const { world, model } = scene;
    const { device } = this;
    device.program(hexagon + viewShader).draw(
      {
        state: world.state.texture,
        size: [world.width, world.height],
        extent: scene.extent,
        hexagons: world.hexagons,
        screen: [how.width, how.height],
        middle: how.middle,
        zoom: how.zoom,
        rgb: model.rgbChannel,
        alpha: model.start === "cell" ? world.rule.fields.alive_channel : -1,
        channels: world.rule.fields.channels,
        everyChannel: this.everyChannel && target === null,
        repeated: this.fills(scene),
        smoothed: how.smoothed,
        ground: this.ground,
      },
      target,
    );
  }

  /** Draws on the screen. @param {number} pixels  Device pixels for each of the page's. */
  show(scene, pixels) {
    const { drawingBufferWidth: width, drawingBufferHeight: height } = this.device.gl;
    this.draw(scene, null, { width, height, middle: this.middle, zoom: this.zoom * pixels, smoothed: this.smoothed });
  }

  /** All cells of a canvas as pixels, `side` along each, or from one hexagon to the next. @returns {ImageData} */
  picture(scene, side) {
    const { gl } = this.device;
    const [width, height] = scene.extent.map((length) => Math.max(1, Math.round(length * side)));
    const target = new Target(new Texture(this.device, gl.RGBA8, width, height));
    const middle = scene.extent.map((length) => length / 2);
    this.draw(scene, target, { width, height, middle, zoom: side, smoothed: false });
    const bytes = new Uint8ClampedArray(width * height * 4);
    gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, bytes);
    target.texture.remove();
    target.remove();
    const upright = new Uint8ClampedArray(bytes.length);
    for (let row = 0; row < height; row++) upright.set(bytes.subarray((height - 1 - row) * width * 4, (height - row) * width * 4), row * width * 4);
    return new ImageData(upright, width, height);
  }
}
