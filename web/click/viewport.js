// Where the image lies on the canvas: zoom, panning, and conversion between three kinds of places, all {x, y}:
// CSS pixels of the canvas, shares of the image's sides (0..1), and the state's pixels.
import { rounded } from "./state.js";

const ZOOM = [1, 32];

export class Viewport {
  zoom = 1;
  center = { x: 0.5, y: 0.5 }; // the share of the image in the middle of the canvas

  // onChange(): draw again.
  constructor(canvas, editor, onChange) {
    Object.assign(this, { canvas, editor, onChange });
  }

  fit() {
    this.zoom = 1;
    this.center = { x: 0.5, y: 0.5 };
    this.onChange();
  }

  // Zoom around a place on the canvas, its middle if there is none.
  zoomBy(factor, at = null) {
    const place = at ?? { x: this.canvas.clientWidth / 2, y: this.canvas.clientHeight / 2 };
    const before = this.toShare(place);
    this.zoom = Math.min(ZOOM[1], Math.max(ZOOM[0], this.zoom * factor));
    const after = this.toShare(place);
    this.moveTo({ x: this.center.x + before.x - after.x, y: this.center.y + before.y - after.y });
  }

  // Bring a share of the image to the middle, as far as the canvas stays filled.
  moveTo({ x, y }) {
    const free = 0.5 - 0.5 / this.zoom;
    const inside = (value) => Math.min(0.5 + free, Math.max(0.5 - free, value));
    this.center = { x: inside(x), y: inside(y) };
    this.onChange();
  }

  // The image's rectangle on the canvas.
  get frame() {
    const { size } = this.editor;
    const { clientWidth, clientHeight } = this.canvas;
    const scale = Math.min(clientWidth / size[0], clientHeight / size[1]) * this.zoom;
    const [width, height] = [size[0] * scale, size[1] * scale];
    return {
      width,
      height,
      left: clientWidth / 2 - this.center.x * width,
      top: clientHeight / 2 - this.center.y * height,
    };
  }

  // The canvas place of a pointer event. The graph zooms, so the canvas may be shown larger or smaller than laid out.
  placeOf(event) {
    const box = this.canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) / box.width) * this.canvas.clientWidth,
      y: ((event.clientY - box.top) / box.height) * this.canvas.clientHeight,
    };
  }

  toShare({ x, y }) {
    const { left, top, width, height } = this.frame;
    return { x: (x - left) / width, y: (y - top) / height };
  }

  fromShare({ x, y }) {
    const { left, top, width, height } = this.frame;
    return { x: left + x * width, y: top + y * height };
  }

  // A share of the image as a point of the state, inside the image.
  toState({ x, y }) {
    const [width, height] = this.editor.size;
    const inside = (value, most) => rounded(Math.min(most - 0.5, Math.max(0, value * most)));
    return { x: inside(x, width), y: inside(y, height) };
  }

  // The canvas place of a point of the state.
  fromState({ x, y }) {
    const [width, height] = this.editor.state.size ?? this.editor.size;
    return this.fromShare({ x: x / width, y: y / height });
  }
}
