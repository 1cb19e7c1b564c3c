// The canvas with the image, its masks and points. What the pointer and the keys do on it becomes edits of the state.
import { drawScene } from "./drawing.js";
import { Keys } from "./keys.js";
import { Pointer } from "./pointer.js";
import { Viewport } from "./viewport.js";

const REACH = 11; // CSS pixels: how near a click has to be to take hold of a point
const LABEL =
  "Image. Arrow keys move a cursor, Enter adds a point on the object, Shift Enter one outside it, Delete removes a " +
  "point, B sets the corners of a box, plus and minus zoom, Control Z undoes.";

export class ImageCanvas {
  #frame = 0;

  constructor(widget) {
    this.widget = widget;
    this.editor = widget.editor;
    this.excluding = false; // plain clicks add points outside the object
    this.element = canvasElement();
    this.viewport = new Viewport(this.element, this.editor, () => this.draw());
    this.keys = new Keys(this);
    this.pointer = new Pointer(this);
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  get hasFocus() {
    return document.activeElement === this.element;
  }

  draw() {
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(() => {
      if (drawScene(this)) this.widget.drawn();
    });
  }

  // Edits in places of the image, 0..1

  addPoint(share, outside) {
    if (share.x < 0 || share.y < 0 || share.x > 1 || share.y > 1) return;
    this.editor.addPoint(outside ? "negative" : "positive", this.viewport.toState(share));
  }

  setBox(a, b) {
    const [p, q] = [this.viewport.toState(a), this.viewport.toState(b)];
    const box = [Math.min(p.x, q.x), Math.min(p.y, q.y), Math.max(p.x, q.x), Math.max(p.y, q.y)];
    if (box[2] - box[0] >= 2 && box[3] - box[1] >= 2) this.editor.setBox(box);
  }

  // What is nearest to a place on the canvas, {index of the object, kind, i: number of the point}, or null. The active
  // object comes first; its box is taken by the cross in the upper right corner.
  hitAt(place) {
    const { state, active } = this.editor;
    const order = [active, ...state.objects.keys()].filter((i, n, all) => state.objects[i] && all.indexOf(i) === n);
    let best = null;
    const consider = (point, found) => {
      const there = this.viewport.fromState(point);
      const distance = Math.hypot(there.x - place.x, there.y - place.y);
      if (distance <= REACH && (!best || distance < best.distance)) best = { ...found, distance };
    };
    for (const index of order) {
      const object = state.objects[index];
      for (const kind of ["positive", "negative"]) {
        object[kind].forEach((point, i) => consider(point, { index, kind, i }));
      }
      if (object.box && index === active) consider({ x: object.box[2], y: object.box[1] }, { index, kind: "box" });
      if (best && index === active) break;
    }
    return best;
  }

  remove({ index, kind, i }) {
    if (kind === "box") this.editor.edit((state) => (state.objects[index].box = null), "remove_box");
    else this.editor.edit((state) => state.objects[index][kind].splice(i, 1), "remove_point");
  }

  isNear(a, b) {
    return Math.hypot(a.x - b.x, a.y - b.y) <= REACH;
  }
}

function canvasElement() {
  const canvas = document.createElement("canvas");
  canvas.className = "sounding-click-stage";
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", LABEL);
  // The frontend leaves undo keys to text fields and offers no other way to ask for them: older versions recognise text
  // fields by their type, newer ones by whether they can be edited.
  canvas.type = "textarea";
  Object.defineProperty(canvas, "isContentEditable", { value: true });
  return canvas;
}
