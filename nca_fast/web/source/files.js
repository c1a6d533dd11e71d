// What comes onto the page and what is taken from it: models, pictures, the camera, films, replays.

import { checksum } from "./checksum.js";
import { find } from "./dom.js";
import { Recorder, download, png } from "./keep.js";
import { readModel } from "./model.js";
import { listMaterials } from "./panel.js";
import { Camera, fitted } from "./pictures.js";
import { packedText, readReplay, replayOf, unpackedText } from "./replay.js";
import { CELLS, families } from "./scene.js";

const LONGEST_LINK = 60000;

/** Opens whatever it is. @param {File} file */
export async function openFile(app, file) {
  try {
    if (/\.safetensors$/i.test(file.name)) {
      addModel(app, readModel(await file.arrayBuffer(), file.name.replace(/\.safetensors$/i, "")));
    } else if (/\.json$/i.test(file.name)) startReplay(app, readReplay(await file.text()));
    else if (file.type.startsWith("image/")) await openPicture(app, file);
    else throw new Error(`${file.name} must be a model (.safetensors), a picture or a replay (.json).`);
  } catch (error) {
    app.notice(error.message);
  }
}

/** Takes a model in, beside those of its rule or on a canvas of its own. @param {import("./model.js").Model} model */
export function addModel(app, model) {
  const names = app.families.flatMap((family) => family.models.map((of) => of.name));
  const bare = model.name;
  for (let n = 2; names.includes(model.name); n++) model.name = `${bare}-${n}`;
  const home = app.families.find((family) => family.takes(model));
  const kept = app.families.map((family) => family.models);
  if (home) home.models = [...home.models, model];
  else app.families.push(...families([model]));
  const family = home || app.families[app.families.length - 1];
  try {
    if (app.scenes.has(family)) app.replace(family, app.scenes.get(family).settings);
    app.choose(family, Math.max(0, family.materials.findIndex((of) => of.name === model.name)));
  } catch (error) {
    app.families = app.families.slice(0, kept.length);
    kept.forEach((models, i) => (app.families[i].models = models));
    throw error;
  }
  listMaterials(app);
}

/** @param {import("./app.js").App} app @param {File} file */
export async function openPicture(app, file) {
  const picture = await createImageBitmap(file).catch(() => {
    throw new Error(`${file.name} must be a picture that this browser reads, but is not.`);
  });
  const family = app.scene.model.start === "image" ? app.scene.family : app.families.find((of) => of.models[0].start === "image");
  if (!family) throw new Error("There is no model on this page that redraws pictures: style and image-manipulation runs do.");
  app.source = (width, height) => fitted(picture, picture.width, picture.height, width, height);
  const side = Math.min(1, Math.sqrt(CELLS.image / (picture.width * picture.height)));
  app.choose(family, 0);
  app.replace(family, { ...app.scene.settings, height: Math.max(1, Math.round(picture.height * side)), width: Math.max(1, Math.round(picture.width * side)) });
}

export async function toggleCamera(app) {
  const on = !app.camera.stream;
  try {
    if (on) {
      await app.camera.start();
      find("again").value = String(Math.min(24, app.scene.model.steps));
      app.play(true);
    } else {
      app.camera.stop();
      app.camera = new Camera(find("camera"));
      find("again").value = "0";
    }
    find("film").setAttribute("aria-pressed", String(on));
  } catch (error) {
    app.camera = new Camera(find("camera"));
    app.notice(`The camera cannot be used: ${error.message}`);
  }
}

export async function toggleRecording(app) {
  try {
    const { recorder } = app;
    app.recorder = recorder ? null : new Recorder(app.screen);
    app.shown = ""; // so that a page that stands still is drawn, too
    find("webm").setAttribute("aria-pressed", String(!recorder));
    find("webm").textContent = recorder ? "Record WebM" : "Stop and save";
    if (recorder) download(await recorder.stop(), `${app.scene.model.name}.${recorder.type.includes("mp4") ? "mp4" : "webm"}`);
  } catch (error) {
    app.notice(error.message);
  }
}

export async function savePicture(app) {
  const { world, model } = app.scene;
  const side = Math.max(1, Math.min(4, Math.floor(2048 / Math.max(world.height, world.width))));
  download(await png(app.view.picture(app.scene, side)), `${model.name}-${world.step}.png`);
}

export async function copyLink(app) {
  try {
    const fragment = await packedText(replayText(app));
    if (fragment.length > LONGEST_LINK) throw new Error("So many strokes do not go into a link: save the replay as a file.");
    history.replaceState(null, "", `#r=${fragment}`);
    await navigator.clipboard.writeText(location.href).then(
      () => app.notice("The link is copied."),
      () => app.notice("The link is in the address line now: copy it from there."),
    );
  } catch (error) {
    app.notice(error.message);
  }
}

export function saveReplay(app) {
  try {
    download(new Blob([replayText(app)], { type: "application/json" }), `${app.scene.model.name}-replay.json`);
  } catch (error) {
    app.notice(error.message);
  }
}

export async function openFragment(app) {
  const match = /^#r=([\w-]+)$/.exec(location.hash);
  if (!match) return;
  try {
    startReplay(app, readReplay(await unpackedText(match[1])));
  } catch (error) {
    app.notice(error.message);
  }
}

/** @param {ReturnType<typeof readReplay>} replay */
function startReplay(app, replay) {
  const named = (family) => JSON.stringify(family.models.map((model) => model.name));
  const family = app.families.find((of) => named(of) === JSON.stringify(replay.models));
  if (!family) throw new Error(`This page has no canvas with ${replay.models.join(", ")}, of which the replay is: open it on the page where it was made.`);
  const other = family.models.find((model, i) => checksum(model) !== replay.weights[i]);
  if (other) throw new Error(`The replay was made with other weights of ${other.name} than this page has: open it on the page where it was made.`);
  app.choose(family, 0);
  app.scene.check(replay.events, replay.grid);
  app.replace(family, { height: replay.height, width: replay.width, seed: BigInt(replay.seed), padding: replay.padding, grid: replay.grid });
  app.scene.replay(replay.events, replay.layout);
  app.until = replay.steps;
  app.play(true);
}

function replayText(app) {
  if (app.scene.model.start === "image" && (app.source || app.scene.filmed)) throw new Error("A replay does not hold the picture, so there is none of a canvas with a picture of yours.");
  return JSON.stringify(replayOf(app.scene));
}
