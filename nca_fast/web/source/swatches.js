// Small pictures of what there is to paint, each grown here while nothing else is to be done.

import { ROW, gridOf } from "./hexagons.js";
import { FIRST } from "./mixing.js";
import { landscape } from "./pictures.js";
import { Scene } from "./scene.js";

const SIDE = 56; // cells
const AT_ONCE = 4; // steps

/** Grows a picture for each material of a family, one after the other. */
export class Swatches {
  /**
   * @param {import("./gl.js").Device} device
   * @param {import("./view.js").View} view
   */
  constructor(device, view) {
    this.device = device;
    this.view = view;
    /** @type {{family: import("./scene.js").Family, number: number, canvas: HTMLCanvasElement}[]} */
    this.waiting = [];
    /** @type {{scene: Scene, canvas: HTMLCanvasElement}|null} */
    this.growing = null;
  }

  /** @param {HTMLCanvasElement} canvas */
  add(family, number, canvas) {
    canvas.width = canvas.height = 2 * SIDE;
    this.waiting.push({ family, number, canvas });
  }

  /** Does a little. Returns whether there was anything to do. */
  work() {
    if (this.growing === null) {
      const next = this.waiting.shift();
      if (!next) return false;
      const { rule, rules } = next.family.models[0];
      const side = rules ? rules.side : SIDE;
      const height = gridOf(rule) === "hex" ? Math.round(side / ROW) : side;
      const scene = new Scene(this.device, next.family, { height, width: side, seed: 0n, mix: { ...FIRST, from: next.number } });
      if (scene.model.start === "image") scene.picture = landscape(SIDE, SIDE);
      scene.begin(next.number);
      this.growing = { scene, canvas: next.canvas };
    }
    const { scene, canvas } = this.growing;
    scene.world.advance(Math.min(AT_ONCE, scene.model.steps - scene.world.step));
    const done = scene.world.step >= scene.model.steps;
    if (done || scene.world.step % 32 === 0) {
      const picture = this.view.picture(scene, Math.max(1, Math.round((2 * SIDE) / scene.world.width)));
      [canvas.width, canvas.height] = [picture.width, picture.height];
      canvas.getContext("2d").putImageData(picture, 0, 0);
    }
    if (done) {
      scene.remove();
      this.growing = null;
    }
    return true;
  }
}
