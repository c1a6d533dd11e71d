// The page: its controls, and what they do.

import { bindControls } from "./controls.js";
import { find } from "./dom.js";
import { openFragment } from "./files.js";
import { Device } from "./gl.js";
import { readModel } from "./model.js";
import { Pace, brief } from "./pace.js";
import { Camera, landscape } from "./pictures.js";
import { CELLS, Scene, families } from "./scene.js";
import { Swatches } from "./swatches.js";
import { View } from "./view.js";

const TOOLS = {
  paint: { label: "Paint", key: "P", title: "Paint with what is chosen above" },
  plant: { label: "Plant", key: "P", title: "Plant a living cell" },
  erase: { label: "Erase", key: "E", title: "Set cells to nothing; they grow again" },
  noise: { label: "Disturb", key: "N", title: "Fill cells with noise" },
  speed: { label: "Slow", key: "S", title: "Let cells fire less often, or more" },
};
const KEYS = [
  ["space", "play, pause"],
  [".", "one step"],
  ["R", "begin again"],
  ["P E N S", "brushes"],
  ["[ ]", "size of the brush"],
  ["1 to 9", "what to paint with"],
  ["arrows", "move; with shift the brush paints in the middle"],
  ["+ - 0", "zoom, fit"],
  ["< >", "slower, faster"],
  ["C", "all channels"],
  ["D", "dark, light"],
];
const REST = 50; // milliseconds between two looks at a page that stands still

export class App {
  /** @param {import("./model.js").Model[]} models */
  constructor(models) {
    this.screen = find("screen");
    this.device = new Device(this.screen, new URLSearchParams(location.search).has("half"));
    this.view = new View(this.device);
    this.pace = new Pace(this.device.gl);
    this.swatches = new Swatches(this.device, this.view);
    this.camera = new Camera(find("camera"));
    this.families = families(models);
    /** @type {Map<import("./scene.js").Family, Scene>} */
    this.scenes = new Map();
    this.still = matchMedia("(prefers-reduced-motion: reduce)").matches; // who asks for no motion starts it himself
    this.playing = false;
    this.tool = "paint";
    this.number = 0; // of the material that is chosen
    /** @type {{last: [number, number], now: [number, number], fresh: boolean}|null} */
    this.held = null;
    this.frame = this.frame.bind(this);
  }

  start() {
    const { half, name } = this.device;
    find("gpu").textContent = `${half ? "Half-precision states, because this GPU draws into no others: numbers differ from Python's. " : ""}Computed by ${name}.`;
    for (const [key, said] of KEYS) {
      find("keys").append(Object.assign(document.createElement("dt"), { textContent: key }), Object.assign(document.createElement("dd"), { textContent: said }));
    }
    bindControls(this);
    this.paintGround();
    this.list();
    this.choose(this.families[0], 0);
    openFragment(this);
    new ResizeObserver(() => this.resize()).observe(find("stage"));
    requestAnimationFrame(this.frame);
  }

  /** Shows a button for everything that can be painted. */
  list() {
    find("swatches").replaceChildren();
    this.families.forEach((family) => {
      family.materials.forEach(({ name }, number) => {
        const button = document.createElement("button");
        button.className = "swatch";
        button.setAttribute("role", "radio");
        const picture = document.createElement("canvas");
        picture.setAttribute("aria-hidden", "true");
        button.append(picture, Object.assign(document.createElement("span"), { textContent: name }));
        button.title = name;
        button.onclick = () => this.choose(family, number);
        find("swatches").append(button);
        this.swatches.add(family, number, picture);
      });
    });
    this.mark();
  }

  mark() {
    const all = this.families.flatMap((family) => family.materials.map((_, number) => [family, number]));
    [...find("swatches").children].forEach((button, i) => {
      const chosen = this.scene && all[i][0] === this.scene.family && all[i][1] === this.number;
      button.setAttribute("aria-checked", String(Boolean(chosen)));
    });
  }

  /** Chooses what to paint with; of another family, its canvas comes up. */
  choose(family, number) {
    this.number = number;
    if (!this.scene || this.scene.family !== family) {
      if (!this.scenes.has(family)) this.scenes.set(family, this.made(family, this.firstSize(family)));
      this.show(this.scenes.get(family));
    } else if (this.scene.family.materials.length > 1) this.pick("paint");
    this.mark();
  }

  /** A scene, with the picture that its automaton redraws. */
  made(family, settings) {
    const scene = new Scene(this.device, family, settings);
    if (scene.model.start === "image") {
      scene.picture = this.source ? this.source(settings.width, settings.height) : landscape(settings.width, settings.height);
      scene.begin();
    }
    return scene;
  }

  firstSize(family) {
    const { start } = family.models[0];
    const box = find("stage").getBoundingClientRect();
    const most = Math.min(CELLS[start] * (box.width < 600 ? 0.5 : 1), (box.width * box.height) / 4);
    const side = Math.sqrt(most / Math.max(1, box.width * box.height));
    const cells = (pixels) => Math.max(16, Math.round((pixels * side) / 8) * 8);
    return { height: cells(box.height), width: cells(box.width), seed: 0n };
  }

  /** Brings a scene up. @param {Scene} scene */
  show(scene) {
    this.scene = scene;
    const { model, settings } = scene;
    const living = model.start === "cell";
    const tools = [living ? "plant" : scene.family.materials.length > 1 ? "paint" : null, "erase", "noise", "speed"].filter(Boolean);
    find("tools").replaceChildren(
      ...tools.map((tool) => {
        const button = document.createElement("button");
        button.setAttribute("role", "radio");
        Object.assign(button, { id: `tool-${tool}`, textContent: TOOLS[tool].label, title: `${TOOLS[tool].title} (${TOOLS[tool].key})` });
        button.onclick = () => this.pick(tool);
        return button;
      }),
    );
    this.pick(tools.includes("paint") ? "paint" : "erase");
    const several = scene.family.materials.length > 1;
    find("fill").hidden = find("mosaic").hidden = !several;
    find("picture-section").hidden = model.start !== "image";
    find("turn-section").hidden = !scene.world.rule.turns;
    find("scale").max = String(scene.largestScale);
    find("again").value = "0";
    this.stopAt = model.start === "image" ? model.steps : Infinity;
    find("width").value = String(settings.width);
    find("height").value = String(settings.height);
    find("seed").value = String(settings.seed);
    find("edges").value = scene.world.rule.fields.padding;
    find("radius").max = String(Math.max(8, Math.round(Math.min(settings.width, settings.height) / 3)));
    find("radius").value = String(Math.max(2, Math.round(Math.min(settings.width, settings.height) / (living ? 12 : 11))));
    this.view.smoothed = find("smoothed").checked;
    this.showTurning();
    this.fit();
    this.say();
    this.play(!this.still);
  }

  /** @param {string} tool */
  pick(tool) {
    if (!find(`tool-${tool}`)) return;
    this.tool = tool;
    for (const button of find("tools").children) button.setAttribute("aria-checked", String(button.id === `tool-${tool}`));
    find("slow-row").hidden = tool !== "speed";
  }

  play(on) {
    this.playing = on;
    const button = find("play");
    button.setAttribute("aria-pressed", String(on));
    button.setAttribute("aria-label", on ? "Pause" : "Play");
  }

  /** Begins again; where the settings ask for another canvas, on another. */
  restart() {
    const { family, settings } = this.scene;
    const wanted = { ...settings, height: this.whole("height"), width: this.whole("width"), seed: BigInt(find("seed").value.replace(/\D/g, "") || 0) & (2n ** 64n - 1n), padding: find("edges").value };
    if (wanted.height === settings.height && wanted.width === settings.width && wanted.padding === this.scene.world.rule.fields.padding) {
      settings.seed = wanted.seed;
      this.scene.restart();
    } else this.replace(family, wanted);
    if (this.stopAt < Infinity) this.stopAt = this.scene.model.steps;
    this.play(true);
  }

  /** Puts another canvas in the place of a family's. */
  replace(family, settings) {
    const { layout } = this.scenes.get(family) || {};
    const scene = this.made(family, settings);
    if (layout !== undefined) scene.begin(layout);
    if (this.scenes.has(family)) this.scenes.get(family).remove();
    this.scenes.set(family, scene);
    this.show(scene);
  }

  whole(id) {
    const input = find(id);
    const value = Math.round(Number(input.value) || 0);
    return Math.min(Math.max(value, Number(input.min)), Number(input.max));
  }

  fit() {
    const box = this.screen.getBoundingClientRect();
    this.view.fit(this.scene, box.width, box.height);
    this.sayZoom();
  }

  sayZoom() {
    find("zoom").value = String(Math.log2(this.view.zoom));
    this.say();
  }

  /** Writes beside the controls what they are set to. */
  say() {
    const show = (id, text) => {
      document.querySelector(`output[for="${id}"]`).textContent = text;
    };
    show("radius", find("radius").value);
    show("soft", `${Math.round(100 * find("soft").value)} %`);
    show("slow", `${Math.round(100 * find("slow").value)} %`);
    show("angle", `${find("angle").value}°`);
    show("scale", `${Number(find("scale").value)} x`);
    show("zoom", `${this.view.zoom.toFixed(this.view.zoom < 10 ? 1 : 0)} x`);
    show("pace", this.pace.words);
  }

  resize() {
    const box = find("stage").getBoundingClientRect();
    const pixels = Math.min(window.devicePixelRatio || 1, 2);
    this.screen.width = Math.max(1, Math.round(box.width * pixels));
    this.screen.height = Math.max(1, Math.round(box.height * pixels));
    this.pixels = pixels;
    this.fit();
    this.shown = ""; // what was drawn is gone
  }

  /** @param {number} now */
  frame(now) {
    const next = () => requestAnimationFrame(this.frame);
    if (this.device.gl.isContextLost()) return this.notice("The GPU was taken away from the page. Load it again.");
    if (!this.pixels || !this.pace.ready(now)) return next();
    try {
      const steps = this.playing ? Math.min(this.pace.due(), this.left()) : 0;
      this.dab();
      if (steps) this.scene.advance(steps);
      else this.scene.applyDue();
      this.showTurning();
      const grown = this.swatches.work();
      this.arrived();
      const changed = this.changed();
      if (changed) this.view.show(this.scene, this.pixels);
      const busy = changed || grown || this.playing;
      if (busy) this.pace.frame(steps, now);
      this.measure();
      return busy || this.held ? next() : setTimeout(next, REST);
    } catch (error) {
      this.play(false);
      this.notice(error.message);
      setTimeout(next, REST);
    }
  }

  /** Whether what the screen should show is not what it showed: a page that stands still draws nothing. */
  changed() {
    const { scene, view } = this;
    const { middle, zoom, smoothed, everyChannel, ground } = view;
    const now = [scene.begun, scene.world.step, scene.events.length, middle, zoom, smoothed, everyChannel, ground, this.screen.width, this.screen.height].join(" ");
    const changed = now !== this.shown;
    this.shown = now;
    return changed;
  }

  /** Says where the run is and how fast. */
  measure() {
    const rate = this.playing ? this.pace.rate : 0;
    const { world } = this.scene;
    const speed = this.playing ? `  ·  ${brief(rate)} steps/s  ·  ${brief(rate * world.height * world.width)} cell-steps/s` : "";
    const said = `step ${world.step.toLocaleString("en")}${speed}`;
    if (find("meter").textContent !== said) find("meter").textContent = said;
  }

  /** Steps until the run is to stop. */
  left() {
    const again = this.whole("again");
    const until = Math.min(again > 0 && this.scene.model.start === "image" ? again : this.stopAt, this.until === undefined ? Infinity : this.until);
    return Math.max(0, until - this.scene.world.step);
  }

  /** What is to be done where the run has come to its end: of a replay, of a picture. */
  arrived() {
    if (!this.playing || this.left() > 0) return;
    if (this.until !== undefined && this.scene.world.step >= this.until) {
      this.until = undefined;
      this.play(false);
    } else if (this.whole("again") > 0) {
      if (this.camera.stream) this.scene.picture = this.camera.frame(this.scene.world.width, this.scene.world.height) || this.scene.picture;
      this.scene.begin();
    } else this.play(false);
  }

  /** Lets the brush touch the canvas where the hand is. */
  dab() {
    const { held } = this;
    if (!held) return;
    const moved = held.last[0] !== held.now[0] || held.last[1] !== held.now[1];
    if (!held.fresh && !moved && this.tool !== "erase" && this.tool !== "noise") return;
    if (this.tool === "plant" && !held.fresh) return;
    this.touch(held.last, held.now);
    held.last = held.now;
    held.fresh = false;
  }

  /** @param {[number, number]} from  Row and column. @param {[number, number]} to */
  touch(from, to) {
    const stroke = { tool: this.tool, from, to, radius: Number(find("radius").value), soft: Number(find("soft").value) };
    if (this.tool === "paint") stroke.value = this.number;
    if (this.tool === "speed") stroke.value = Number(find("slow").value);
    this.scene.stroke(stroke);
    this.goOn();
  }

  /** Lets a run that was to come to an end go on, because something was done. */
  goOn() {
    this.until = undefined;
    if (this.stopAt < Infinity) {
      this.stopAt = Math.max(this.stopAt, this.scene.world.step + this.scene.model.steps / 2);
      this.play(true);
    }
  }

  /** Turns and scales cells as the controls say. */
  turn() {
    this.scene.turn({ angle: Number(find("angle").value), align: find("align").value, scale: Number(find("scale").value) });
    this.goOn();
    this.say();
  }

  /** Brings the controls to how cells are turned, which a replay changes as it goes. */
  showTurning() {
    const { turning } = this.scene.settings;
    if (turning === this.turning) return;
    this.turning = turning;
    for (const [id, value] of Object.entries(turning)) find(id).value = String(value);
    this.say();
  }

  notice(text) {
    find("notice").textContent = text;
    find("notice").hidden = !text;
    clearTimeout(this.noticeTimer);
    if (text && this.scene) this.noticeTimer = setTimeout(() => this.notice(""), 9000);
  }

  paintGround() {
    const [r, g, b] = getComputedStyle(document.documentElement).getPropertyValue("--ground").match(/[0-9a-f]{2}/gi).map((hex) => parseInt(hex, 16) / 255);
    this.view.ground = [r, g, b];
  }

  theme() {
    const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
    document.documentElement.dataset.theme = dark ? "light" : "dark";
    this.paintGround();
  }

  once() {
    this.play(false);
    this.until = undefined;
    this.scene.advance(1);
  }
}

/** Opens the page with the models that are in it. */
function open() {
  try {
    const page = JSON.parse(find("models").textContent);
    const models = page.models.map(({ name, file }) => readModel(Uint8Array.from(atob(file), (letter) => letter.charCodeAt(0)).buffer, name));
    const app = new App(models);
    app.start();
    // For the console, and for tests.
    Object.assign(window, { nca: { app, Device, Scene, families, readModel } });
  } catch (error) {
    find("notice").textContent = error.message;
    find("notice").hidden = false;
  }
}

open();
