// What the controls show, and what they are set to.

import { find } from "./dom.js";

/** @typedef {import("./app.js").App} App */

const TOOLS = {
  paint: { label: "Paint", key: "P", title: "Paint with what is chosen above" },
  plant: { label: "Plant", key: "P", title: "Plant a living cell" },
  erase: { label: "Erase", key: "E", title: "Set cells to nothing; they grow again" },
  noise: { label: "Disturb", key: "N", title: "Fill cells with noise" },
  speed: { label: "Pace", key: "S", title: "Let cells fire less often, or more" },
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

/** Says what computes, and lists the keys. @param {import("./gl.js").Device} device */
export function showMachine({ half, name }) {
  find("gpu").textContent = `${half ? "Half-precision states, because this GPU draws into no others: numbers differ from Python's. " : ""}Computed by ${name}.`;
  for (const [key, said] of KEYS) {
    find("keys").append(Object.assign(document.createElement("dt"), { textContent: key }), Object.assign(document.createElement("dd"), { textContent: said }));
  }
}

/** Shows a button for everything that can be painted. @param {App} app */
export function listMaterials(app) {
  find("swatches").replaceChildren();
  app.families.forEach((family) => {
    family.materials.forEach(({ name }, number) => {
      const button = document.createElement("button");
      button.className = "swatch";
      button.setAttribute("role", "radio");
      const picture = document.createElement("canvas");
      picture.setAttribute("aria-hidden", "true");
      button.append(picture, Object.assign(document.createElement("span"), { textContent: name }));
      button.title = name;
      button.onclick = () => app.attempt(() => app.choose(family, number));
      find("swatches").append(button);
      app.swatches.add(family, number, picture);
    });
  });
  markMaterial(app);
}

/** Marks what is chosen to paint with. @param {App} app */
export function markMaterial(app) {
  const all = app.families.flatMap((family) => family.materials.map((_, number) => ({ family, number })));
  [...find("swatches").children].forEach((button, i) => {
    const chosen = app.scene && all[i].family === app.scene.family && all[i].number === app.number;
    check(button, Boolean(chosen));
  });
}

/** Brings all controls to a scene that comes up. @param {App} app */
export function showScene(app) {
  const { model, settings, family, world, largestScale } = app.scene;
  const living = model.start === "cell";
  const several = family.materials.length > 1;
  showTools(app, living ? ["plant", "erase", "noise", "speed"] : several ? ["paint", "erase", "noise", "speed"] : ["erase", "noise", "speed"]);
  find("fill").hidden = find("mosaic").hidden = !several || Boolean(model.rules);
  find("picture-section").hidden = model.start !== "image";
  find("turn-section").hidden = !world.rule.turns;
  find("rules-section").hidden = !model.rules;
  find("scale").max = String(largestScale);
  find("again").value = "0";
  find("width").value = String(settings.width);
  find("height").value = String(settings.height);
  find("grid").value = app.scene.grid;
  find("grid-row").hidden = !app.scene.movable;
  find("seed").value = String(settings.seed);
  find("edges").value = world.rule.fields.padding;
  const side = Math.min(settings.width, settings.height);
  find("radius").max = String(Math.max(8, Math.round(side / 3)));
  find("radius").value = String(Math.max(2, Math.round(side / (living ? 12 : 11))));
  showTurning(app);
  if (model.rules) find("other").replaceChildren(...model.rules.names.map((name, number) => new Option(name, String(number))));
  app.mixing = null;
  showMixing(app);
}

/** @param {App} app @param {import("./brush.js").Tool[]} tools */
function showTools(app, tools) {
  find("tools").replaceChildren(
    ...tools.map((tool) => {
      const button = document.createElement("button");
      button.setAttribute("role", "radio");
      Object.assign(button, { id: `tool-${tool}`, textContent: TOOLS[tool].label, title: `${TOOLS[tool].title} (${TOOLS[tool].key})` });
      button.onclick = () => app.pick(tool);
      return button;
    }),
  );
  app.pick(tools.includes("paint") ? "paint" : "erase");
}

/** Checks one of several choices, of which the Tab key finds that which is chosen, and arrows the others. @param {HTMLElement} button @param {boolean} chosen */
function check(button, chosen) {
  button.setAttribute("aria-checked", String(chosen));
  button.tabIndex = chosen ? 0 : -1;
}

/** Marks a tool. @param {import("./brush.js").Tool} tool */
export function markTool(tool) {
  for (const button of find("tools").children) check(button, button.id === `tool-${tool}`);
  find("slow-row").hidden = tool !== "speed";
}

/** Brings the controls to how cells are turned, which a replay changes as it goes. @param {App} app */
export function showTurning(app) {
  const { turning } = app.scene.settings;
  if (turning === app.turning) return;
  app.turning = turning;
  for (const [id, value] of Object.entries(turning)) find(id).value = String(value);
  say(app);
}

/** Brings the controls to how rules are mixed. @param {App} app */
export function showMixing(app) {
  const { settings, model } = app.scene;
  if (!model.rules || settings.mix === app.mixing) return;
  app.mixing = settings.mix;
  const { from, to, share, turns } = settings.mix;
  [...find("other").options].forEach((option, number) => (option.disabled = number === from));
  find("other").value = String(to);
  find("share").value = String(share);
  find("share").disabled = turns;
  find("turns").checked = turns;
  app.number = from;
  markMaterial(app);
  say(app);
}

/** Brings the slider to the zoom. @param {App} app */
export function showZoom(app) {
  find("zoom").value = String(Math.log2(app.view.zoom));
  say(app);
}

/** Writes beside the controls what they are set to. @param {App} app */
export function say(app) {
  const show = (id, text) => {
    document.querySelector(`output[for="${id}"]`).textContent = text;
    find(id).setAttribute("aria-valuetext", text);
  };
  show("radius", find("radius").value);
  show("soft", `${Math.round(100 * find("soft").value)} %`);
  show("slow", `${Math.round(100 * find("slow").value)} %`);
  show("angle", `${find("angle").value}°`);
  show("scale", `${Number(find("scale").value)} x`);
  show("share", `${Math.round(100 * find("share").value)} %`);
  show("zoom", `${app.view.zoom.toFixed(app.view.zoom < 10 ? 1 : 0)} x`);
  show("pace", app.pace.words);
}

/** The whole number that a field is set to, within its bounds. @param {string} id */
export function whole(id) {
  const input = find(id);
  const value = Math.round(Number(input.value) || 0);
  return Math.min(Math.max(value, Number(input.min)), Number(input.max));
}
