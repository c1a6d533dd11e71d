// Buttons, sliders, keys, fingers and dropped files, and what of the page they move.

import { find } from "./dom.js";
import { copyLink, openFile, openFragment, savePicture, saveReplay, toggleCamera, toggleRecording } from "./files.js";
import { say, showZoom } from "./panel.js";
import { listen } from "./pointer.js";

export function bindControls(app) {
  const click = (id, act) => find(id).addEventListener("click", () => app.attempt(act));
  click("play", () => app.play(!app.playing));
  click("restart", () => app.restart());
  click("once", () => app.once());
  click("theme", () => app.theme());
  click("fill", () => app.scene.fill(app.number));
  click("mosaic", () => app.scene.begin("mosaic"));
  click("fit", () => app.fit());
  click("choose", () => find("file").click());
  click("open", () => find("file").click());
  click("film", () => toggleCamera(app));
  click("png", () => savePicture(app));
  click("webm", () => toggleRecording(app));
  click("link", () => copyLink(app));
  click("save", () => saveReplay(app));
  find("file").addEventListener("change", (event) => {
    for (const file of event.target.files) openFile(app, file);
    event.target.value = "";
  });
  find("pace").addEventListener("input", (event) => {
    app.pace.exponent = Number(event.target.value);
    say(app);
  });
  for (const id of ["radius", "soft", "slow"]) find(id).addEventListener("input", () => say(app));
  for (const id of ["angle", "align", "scale"]) find(id).addEventListener("input", () => app.attempt(() => app.turn()));
  for (const id of ["other", "share", "turns"]) find(id).addEventListener("input", () => app.attempt(() => app.mix()));
  for (const id of ["width", "height", "grid", "seed", "edges"]) find(id).addEventListener("change", () => app.attempt(() => app.restart()));
  find("zoom").addEventListener("input", (event) => {
    app.view.zoom = 2 ** Number(event.target.value);
    say(app);
  });
  find("smoothed").addEventListener("change", (event) => (app.view.smoothed = event.target.checked));
  find("channels").addEventListener("change", (event) => {
    app.view.everyChannel = event.target.checked;
    app.fit();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", ({ matches }) => matches !== (document.documentElement.dataset.theme === "dark") && app.theme());
  globalThis.addEventListener("hashchange", () => openFragment(app));
  bindCanvas(app);
  bindFiles(app);
  document.addEventListener("keydown", (event) => app.attempt(() => pressed(app, event)));
}

function bindCanvas(app) {
  const size = () => app.screen.getBoundingClientRect();
  const rowColumn = (x, y) => {
    return app.scene.rowColumn(app.view.place(x, y, size().width, size().height));
  };
  listen(app.screen, {
    down: (x, y) => {
      if (app.view.everyChannel) return; // there a place on the screen is no cell
      const at = rowColumn(x, y);
      app.held = { last: at, now: at, fresh: true };
      app.dab();
    },
    move: (x, y) => {
      if (app.held) app.held.now = rowColumn(x, y);
    },
    up: () => {
      app.dab();
      app.held = null;
    },
    cancel: () => (app.held = null),
    pan: (dx, dy) => {
      app.view.middle = [app.view.middle[0] - dx / app.view.zoom, app.view.middle[1] - dy / app.view.zoom];
    },
    zoom: (factor, x, y) => {
      app.view.zoomAt(factor, x, y, size().width, size().height);
      showZoom(app);
    },
    hover: (x, y, shown) => {
      const across = app.tool === "plant" ? app.view.zoom : 2 * Number(find("radius").value) * app.view.zoom;
      const cursor = find("cursor");
      cursor.classList.toggle("shown", shown);
      cursor.style.width = cursor.style.height = `${across}px`;
      cursor.style.transform = `translate(${x - across / 2}px, ${y - across / 2}px)`;
    },
  });
}

function bindFiles(app) {
  const over = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!over(event)) return;
    event.preventDefault();
    find("drop").classList.add("shown");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) find("drop").classList.remove("shown");
  });
  document.addEventListener("drop", (event) => {
    find("drop").classList.remove("shown");
    if (!over(event)) return;
    event.preventDefault();
    for (const file of event.dataTransfer.files) openFile(app, file);
  });
}

/** Chooses what lies beside a choice, as arrows do among radio buttons. @param {KeyboardEvent} event @param {Element} group */
function chooseBeside(event, group) {
  const buttons = /** @type {HTMLElement[]} */ ([...group.querySelectorAll("[role=radio]")]);
  const at = buttons.findIndex((button) => button === event.target);
  const step = event.key === "ArrowLeft" || event.key === "ArrowUp" ? -1 : 1;
  const button = buttons[(at + step + buttons.length) % buttons.length];
  button.click();
  button.focus();
  event.preventDefault();
}

/** @param {KeyboardEvent} event */
function pressed(app, event) {
  const typed = event.target instanceof HTMLElement && event.target.matches("input, select, summary, textarea");
  if (typed || event.ctrlKey || event.metaKey || event.altKey) return;
  const pressed = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (pressed === " " && event.target instanceof HTMLButtonElement) return;
  const group = event.target instanceof HTMLElement && event.target.closest("[role=radiogroup]");
  if (group && pressed.startsWith("Arrow")) return chooseBeside(event, group);
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const slide = (id, by) => {
    find(id).value = String(Number(find(id).value) + by);
    find(id).dispatchEvent(new Event("input"));
  };
  const box = app.screen.getBoundingClientRect();
  const acts = {
    " ": () => app.play(!app.playing),
    ".": () => app.once(),
    r: () => app.restart(),
    p: () => app.pick(app.scene.model.start === "cell" ? "plant" : "paint"),
    e: () => app.pick("erase"),
    n: () => app.pick("noise"),
    s: () => app.pick("speed"),
    "[": () => slide("radius", -2),
    "]": () => slide("radius", 2),
    "<": () => slide("pace", -1),
    ">": () => slide("pace", 1),
    "+": () => app.view.zoomAt(1.25, box.width / 2, box.height / 2, box.width, box.height),
    "=": () => acts["+"](),
    "-": () => app.view.zoomAt(0.8, box.width / 2, box.height / 2, box.width, box.height),
    0: () => app.fit(),
    c: () => find("channels").click(),
    d: () => app.theme(),
  };
  if (arrows[pressed]) {
    const [x, y] = arrows[pressed];
    const far = (event.shiftKey ? 8 : 40) / app.view.zoom;
    const before = app.scene.rowColumn(app.view.middle);
    app.view.middle = [app.view.middle[0] + x * far, app.view.middle[1] + y * far];
    if (event.shiftKey) app.touch(before, app.scene.rowColumn(app.view.middle));
  } else if (/^[1-9]$/.test(pressed)) {
    const button = find("swatches").children[Number(pressed) - 1];
    if (button) button.click();
  } else if (acts[pressed]) acts[pressed]();
  else return;
  event.preventDefault();
}
