// Frames: how many steps each takes, what is drawn, and where a run ends.

import { find } from "./dom.js";
import { brief } from "./pace.js";
import { showMixing, showTurning, whole } from "./panel.js";

/** @typedef {import("./app.js").App} App */

const REST = 50; // milliseconds between two looks at a page that stands still

/** Begins to draw frames. @param {App} app */
export function animate(app) {
  const next = () => requestAnimationFrame(draw);
  const draw = (now) => {
    if (app.device.gl.isContextLost()) return app.notice("The GPU was taken away from the page. Load it again.");
    if (!app.pixels || !app.pace.ready(now)) return next();
    try {
      const busy = frameOnce(app, now);
      return busy || app.held ? next() : setTimeout(next, REST);
    } catch (error) {
      app.play(false);
      app.notice(error.message);
      setTimeout(next, REST);
    }
  };
  next();
}

/** Takes the steps of a frame and draws it. Returns whether there was anything to do. @param {App} app @param {number} now */
function frameOnce(app, now) {
  const steps = app.playing ? Math.min(app.pace.due(), stepsLeft(app)) : 0;
  app.dab();
  if (steps) app.scene.advance(steps);
  else app.scene.applyDue();
  showTurning(app);
  showMixing(app);
  const grown = app.swatches.work();
  endRun(app);
  const changed = looksOther(app);
  if (changed) show(app);
  const busy = changed || grown || app.playing;
  if (busy) app.pace.frame(steps, now);
  measure(app);
  return busy;
}

/** Draws the canvas; the picture that was there before it goes when there is something to see. @param {App} app */
function show(app) {
  const { scene } = app;
  app.view.show(scene, app.pixels);
  if (scene.world.step > 0 || scene.events.length > 0) find("poster").classList.add("gone");
}

/** Whether what the screen should show is not what it showed: a page that stands still draws nothing. @param {App} app */
function looksOther(app) {
  const { scene, view } = app;
  const { middle, zoom, smoothed, everyChannel, ground } = view;
  const now = [scene.begun, scene.world.step, scene.events.length, middle, zoom, smoothed, everyChannel, ground, app.screen.width, app.screen.height].join(" ");
  const changed = now !== app.shown;
  app.shown = now;
  return changed;
}

/** Says where the run is and how fast. @param {App} app */
function measure(app) {
  const rate = app.playing ? app.pace.rate : 0;
  const { world } = app.scene;
  const speed = app.playing ? `  ·  ${brief(rate)} steps/s  ·  ${brief(rate * world.height * world.width)} cell-steps/s` : "";
  const said = `step ${world.step.toLocaleString("en")}${speed}`;
  if (find("meter").textContent !== said) find("meter").textContent = said;
}

/** Steps until the run is to stop. @param {App} app */
function stepsLeft(app) {
  const again = whole("again");
  const until = Math.min(again > 0 && app.scene.model.start === "image" ? again : app.stopAt, app.until === undefined ? Infinity : app.until);
  return Math.max(0, until - app.scene.world.step);
}

/** Does what is to be done where the run has come to its end: of a replay, of a picture. @param {App} app */
function endRun(app) {
  if (!app.playing || stepsLeft(app) > 0) return;
  const { scene } = app;
  if (app.until !== undefined && scene.world.step >= app.until) {
    app.until = undefined;
    app.play(false);
  } else if (whole("again") > 0) {
    const seen = app.camera.stream && app.camera.frame(scene.world.width, scene.world.height);
    if (seen) Object.assign(scene, { picture: seen, filmed: true });
    scene.begin();
  } else app.play(false);
}
