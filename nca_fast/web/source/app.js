// The page: its canvases, and what is done to them.

import { bindControls } from "./controls.js";
import { find } from "./dom.js";
import { openFragment } from "./files.js";
import { Device } from "./gl.js";
import { ROW, gridOf } from "./hexagons.js";
import { animate } from "./loop.js";
import { readModel } from "./model.js";
import { Pace } from "./pace.js";
import { listMaterials, markMaterial, markTool, say, showMachine, showScene, showZoom, whole } from "./panel.js";
import { Camera, landscape } from "./pictures.js";
import { CELLS, Scene, families } from "./scene.js";
import { Swatches } from "./swatches.js";
import { View } from "./view.js";

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
    /** @type {import("./brush.js").Tool} */
    this.tool = "paint";
    this.number = 0; // of the material that is chosen
    /** @type {((width: number, height: number) => ImageData)|null} A picture of the user's, of any size. */
    this.source = null;
    /** @type {import("./turning.js").Turning|null} What the controls show. */
    this.turning = null;
    /** @type {import("./mixing.js").Mix|null} What the controls show. */
    this.mixing = null;
    /** @type {{last: [number, number], now: [number, number], fresh: boolean}|null} */
    this.held = null;
  }

  start() {
    showMachine(this.device);
    bindControls(this);
    this.paintGround();
    listMaterials(this);
    this.choose(this.families[0], 0);
    openFragment(this);
    new ResizeObserver(() => this.resize()).observe(find("stage"));
    animate(this);
  }

  /** Chooses what to paint with; of another family, its canvas comes up. */
  choose(family, number) {
    this.number = number;
    if (!this.scene || this.scene.family !== family) {
      if (!this.scenes.has(family)) this.scenes.set(family, this.made(family, this.firstSize(family)));
      this.show(this.scenes.get(family));
    } else if (this.scene.family.materials.length > 1) this.pick("paint");
    if (family.models[0].rules && this.scene.settings.mix.from !== number) {
      this.scene.mix({ from: number });
      this.stopAt = this.scene.model.steps;
      this.play(true);
    }
    markMaterial(this);
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
    const { start, rule, rules } = family.models[0];
    if (rules) return { height: rules.side, width: rules.side, seed: 0n };
    const box = find("stage").getBoundingClientRect();
    const most = Math.min(CELLS[start] * (box.width < 600 ? 0.5 : 1), (box.width * box.height) / 4);
    const side = Math.sqrt(most / Math.max(1, box.width * box.height));
    const cells = (pixels) => Math.max(16, Math.round((pixels * side) / 8) * 8);
    return { height: cells(gridOf(rule) === "hex" ? box.height / ROW : box.height), width: cells(box.width), seed: 0n };
  }

  /** Brings a scene up. @param {Scene} scene */
  show(scene) {
    this.scene = scene;
    this.stopAt = scene.model.start === "image" || scene.model.rules ? scene.model.steps : Infinity;
    showScene(this);
    this.view.smoothed = find("smoothed").checked;
    this.fit();
    this.play(!this.still);
  }

  /** @param {import("./brush.js").Tool} tool */
  pick(tool) {
    if (!find(`tool-${tool}`)) return;
    this.tool = tool;
    markTool(tool);
  }

  play(on) {
    this.playing = on;
    find("play").setAttribute("aria-pressed", String(on));
  }

  /** Begins again; where the settings ask for another canvas, on another. */
  restart() {
    const { family, settings, grid, world } = this.scene;
    const seed = BigInt(find("seed").value.replace(/\D/g, "") || 0) & (2n ** 64n - 1n);
    const wanted = { ...settings, height: whole("height"), width: whole("width"), seed, padding: find("edges").value, grid: find("grid").value };
    // The canvas keeps its shape where its cells get another.
    if (wanted.grid !== grid && wanted.height === settings.height) wanted.height = Math.round(settings.height * (grid === "hex" ? ROW : 1 / ROW));
    const same = wanted.height === settings.height && wanted.width === settings.width && wanted.grid === grid;
    if (same && wanted.padding === world.rule.fields.padding) {
      settings.seed = seed;
      this.scene.restart();
    } else this.replace(family, wanted);
    if (this.stopAt < Infinity) this.stopAt = this.scene.model.steps;
    this.play(true);
  }

  /** Puts another canvas in the place of a family's. */
  replace(family, settings) {
    const { layout } = this.scenes.get(family) || {};
    let scene;
    try {
      scene = this.made(family, settings);
    } catch (error) {
      if (this.scene) showScene(this); // what the controls asked for cannot be had
      throw error;
    }
    if (layout !== undefined) scene.begin(layout);
    if (this.scenes.has(family)) this.scenes.get(family).remove();
    this.scenes.set(family, scene);
    this.show(scene);
  }

  fit() {
    const box = this.screen.getBoundingClientRect();
    this.view.fit(this.scene, box.width, box.height);
    showZoom(this);
  }

  resize() {
    const box = find("stage").getBoundingClientRect();
    const pixels = Math.min(globalThis.devicePixelRatio || 1, 2);
    this.screen.width = Math.max(1, Math.round(box.width * pixels));
    this.screen.height = Math.max(1, Math.round(box.height * pixels));
    this.pixels = pixels;
    this.fit();
    this.shown = ""; // what was drawn is gone
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
    /** @type {import("./brush.js").Stroke} */
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
    say(this);
  }

  /** Mixes the rules of two codes as the controls say, and shows at once what they grow. */
  mix() {
    const { scene } = this;
    scene.mix({ to: Number(find("other").value), share: Number(find("share").value), turns: find("turns").checked });
    scene.advance(scene.model.steps);
    this.stopAt = scene.model.steps;
    this.until = undefined;
    say(this);
  }

  /** Does something, or says why it cannot be done. @param {() => void} act */
  attempt(act) {
    try {
      act();
    } catch (error) {
      this.notice(error.message);
    }
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
    const { dataset } = document.documentElement;
    dataset.theme = dataset.theme === "dark" ? "light" : "dark";
    this.paintGround();
  }

  once() {
    this.play(false);
    this.until = undefined;
    this.scene.advance(1);
  }
}

/** Opens the page with the models that are in it, once it has been shown. */
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

requestAnimationFrame(() => setTimeout(open));
