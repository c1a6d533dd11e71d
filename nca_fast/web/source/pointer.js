// Fingers, mice and pens on the canvas: one paints, two move and zoom.

/**
 * @typedef {object} Hand  What the canvas's owner does about it; places are pixels of the page from the canvas's corner.
 * @property {(x: number, y: number) => void} down
 * @property {(x: number, y: number) => void} move
 * @property {() => void} up
 * @property {() => void} cancel  What began as a stroke is a gesture.
 * @property {(dx: number, dy: number) => void} pan
 * @property {(factor: number, x: number, y: number) => void} zoom
 * @property {(x: number, y: number, shown: boolean) => void} hover
 */

const SLACK = 4; // pixels that a finger may move, and
const WAIT = 110; // milliseconds that it may wait, before it is known to paint

/** @param {HTMLElement} element @param {Hand} hand */
export function listen(element, hand) {
  /** @type {Map<number, {x: number, y: number}>} */
  const fingers = new Map();
  let painting = false;
  let panning = false;
  /** @type {number|undefined} */
  let timer;
  const place = (event) => {
    const box = element.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  const begin = (at) => {
    clearTimeout(timer);
    if (painting || fingers.size !== 1) return;
    painting = true;
    hand.down(at.x, at.y);
  };
  const end = () => {
    clearTimeout(timer);
    if (painting) hand.up();
    painting = panning = false;
  };

  element.addEventListener("pointerdown", (event) => {
    element.setPointerCapture(event.pointerId);
    const at = place(event);
    fingers.set(event.pointerId, at);
    if (event.pointerType === "mouse") {
      panning = event.button !== 0 || event.shiftKey;
      if (!panning) begin(at);
    } else if (fingers.size === 1) timer = setTimeout(() => begin(at), WAIT);
    else {
      clearTimeout(timer);
      if (painting) hand.cancel();
      painting = false;
    }
  });
  element.addEventListener("pointermove", (event) => {
    const [now, before] = [place(event), fingers.get(event.pointerId)];
    hand.hover(now.x, now.y, event.pointerType === "mouse");
    if (!before) return;
    if (fingers.size === 2) {
      const other = [...fingers].find(([id]) => id !== event.pointerId)[1];
      const spread = (at) => Math.max(8, Math.hypot(at.x - other.x, at.y - other.y));
      hand.pan((now.x - before.x) / 2, (now.y - before.y) / 2);
      hand.zoom(spread(now) / spread(before), (now.x + other.x) / 2, (now.y + other.y) / 2);
    } else if (panning) hand.pan(now.x - before.x, now.y - before.y);
    else if (painting) hand.move(now.x, now.y);
    else if (fingers.size === 1 && Math.hypot(now.x - before.x, now.y - before.y) > SLACK) begin(before);
    if (painting || panning || fingers.size > 1) fingers.set(event.pointerId, now);
  });
  for (const name of /** @type {const} */ (["pointerup", "pointercancel"])) {
    element.addEventListener(name, (event) => {
      const at = fingers.get(event.pointerId);
      if (name === "pointerup" && at && fingers.size === 1 && !painting && !panning && timer !== undefined) begin(at);
      fingers.delete(event.pointerId);
      if (fingers.size === 0) {
        end();
        timer = undefined;
      } else {
        clearTimeout(timer);
        timer = undefined; // what is left of a gesture paints nothing
      }
    });
  }
  element.addEventListener("pointerleave", () => hand.hover(0, 0, false));
  element.addEventListener("contextmenu", (event) => event.preventDefault());
  element.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const at = place(event);
      hand.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), at.x, at.y);
    },
    { passive: false },
  );
}
