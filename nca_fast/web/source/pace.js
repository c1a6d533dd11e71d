// How many steps a frame takes: what was asked for, as far as the GPU gives it.

const FASTEST = 9; // of the slider: as many as it gives
const LONG = 45; // milliseconds that a frame should not take
const SHORT = 22;

/** Counts steps and keeps frames short. */
export class Pace {
  /** @param {WebGL2RenderingContext} gl */
  constructor(gl) {
    this.gl = gl;
    this.exponent = 0;
    this.owed = 0;
    this.most = 1; // steps of a frame, by how long the last ones took
    /** @type {WebGLSync|null} Set while a frame is being computed. */
    this.fence = null;
    this.begun = 0;
    /** @type {[number, number][]} Time and steps of the last second. */
    this.done = [];
  }

  /** Whether the GPU is through with the last frame. @param {number} now  Milliseconds. */
  ready(now) {
    if (this.fence === null) return true;
    const state = this.gl.clientWaitSync(this.fence, 0, 0);
    if (state === this.gl.TIMEOUT_EXPIRED) return false;
    this.gl.deleteSync(this.fence);
    this.fence = null;
    const took = now - this.begun;
    if (took > LONG) this.most = Math.max(1, Math.floor(this.most * Math.max(0.5, LONG / took)));
    else if (took < SHORT) this.most = Math.min(4096, Math.ceil(this.most * 1.3));
    return true;
  }

  /** Steps that the next frame should take. */
  due() {
    if (this.exponent >= FASTEST) return this.most;
    this.owed += 2 ** this.exponent;
    const steps = Math.min(Math.floor(this.owed), this.most);
    this.owed = Math.min(this.owed - steps, 1); // what the GPU does not give is not made up for
    return steps;
  }

  /** Notes a frame. @param {number} steps @param {number} now */
  frame(steps, now) {
    this.begun = now;
    this.fence = this.gl.fenceSync(this.gl.SYNC_GPU_COMMANDS_COMPLETE, 0);
    this.gl.flush();
    this.done.push([now, steps]);
    while (this.done.length > 2 && this.done[0][0] < now - 1500) this.done.shift();
  }

  /** Steps per second. */
  get rate() {
    if (this.done.length < 2) return 0;
    const [first, last] = [this.done[0][0], this.done[this.done.length - 1][0]];
    const steps = this.done.slice(1).reduce((sum, [, n]) => sum + n, 0);
    return last > first ? (1000 * steps) / (last - first) : 0;
  }

  /** The speed in words. */
  get words() {
    if (this.exponent >= FASTEST) return "all it gives";
    if (this.exponent < 0) return `1/${2 ** -this.exponent} a frame`;
    return `${2 ** this.exponent} a frame`;
  }
}

/** A number in a few digits: 38, 2.5 M. @param {number} value */
export function brief(value) {
  for (const { unit, size } of [{ unit: "G", size: 1e9 }, { unit: "M", size: 1e6 }, { unit: "k", size: 1e3 }]) {
    if (value >= size) return `${(value / size).toFixed(value >= 100 * size ? 0 : 1)} ${unit}`;
  }
  return value >= 10 ? value.toFixed(0) : value.toFixed(1);
}
