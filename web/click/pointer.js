// The pointer on the image: clicks add or remove points, drags move points, draw boxes or pan, the wheel zooms.

const DRAG = 4; // CSS pixels that a pointer moves before it drags
const DOUBLE = 400; // ms: a second click this soon is a double click

export class Pointer {
  #gesture = null; // what a pressed pointer does: {kind: "pan", "point" or "new", start, ...}
  #added = null; // {time, place} of the last point that a click added

  constructor(canvas) {
    this.canvas = canvas;
    const { element } = canvas;
    element.addEventListener("pointerdown", (event) => this.#down(event));
    element.addEventListener("pointermove", (event) => this.#move(event));
    element.addEventListener("pointerup", (event) => this.#up(event));
    element.addEventListener("pointercancel", () => this.cancel());
    element.addEventListener("contextmenu", (event) => event.preventDefault());
    // Otherwise the middle button scrolls by itself on Windows, and pastes nodes into the graph on Linux.
    for (const kind of ["mousedown", "mouseup", "auxclick"]) {
      element.addEventListener(kind, (event) => event.button === 1 && event.preventDefault());
    }
    element.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
  }

  get isDown() {
    return this.#gesture !== null;
  }

  // The two corners on the canvas of a box that is being drawn, or null.
  get box() {
    const gesture = this.#gesture;
    return gesture?.kind === "new" && gesture.moved && !gesture.outside ? [gesture.start, gesture.place] : null;
  }

  #down(event) {
    const { canvas } = this;
    const { viewport, editor } = canvas;
    canvas.element.focus({ preventScroll: true });
    canvas.keys.cursor = null;
    if (!canvas.widget.image || this.isDown) return;
    canvas.element.setPointerCapture(event.pointerId);
    const start = viewport.placeOf(event);
    if (event.button === 1 || (event.button === 0 && canvas.keys.space)) {
      this.#gesture = { kind: "pan", start, center: { ...viewport.center } };
      return;
    }
    const outside = event.button === 2 || event.altKey || event.ctrlKey || canvas.excluding;
    const hit = canvas.hitAt(start);
    this.#gesture = { kind: hit ? "point" : "new", hit, outside, start, moved: false, before: editor.text };
  }

  #move(event) {
    const { canvas } = this;
    const { viewport } = canvas;
    const place = viewport.placeOf(event);
    const gesture = this.#gesture;
    if (!gesture) {
      if (!canvas.widget.image) return;
      canvas.element.style.cursor = canvas.keys.space ? "grab" : canvas.hitAt(place) ? "pointer" : "crosshair";
      return;
    }
    const { start, hit } = gesture;
    if (gesture.kind === "pan") {
      const { width, height } = viewport.frame;
      const { x, y } = gesture.center;
      viewport.moveTo({ x: x - (place.x - start.x) / width, y: y - (place.y - start.y) / height });
      return;
    }
    gesture.moved ||= Math.hypot(place.x - start.x, place.y - start.y) > DRAG;
    gesture.place = place;
    if (gesture.moved && gesture.kind === "point" && hit.kind !== "box") {
      const point = viewport.toState(viewport.toShare(place));
      canvas.editor.editLive((state) => (state.objects[hit.index][hit.kind][hit.i] = point));
    }
    canvas.draw();
  }

  #up(event) {
    const { canvas } = this;
    const { viewport, editor } = canvas;
    const gesture = this.#gesture;
    this.#gesture = null;
    if (!gesture || gesture.kind === "pan" || !canvas.widget.image) return;
    const place = viewport.placeOf(event);
    const { kind, hit, moved, start, outside } = gesture;
    if (kind === "point" && hit.index !== editor.active && !moved) {
      editor.select(hit.index);
    } else if (kind === "point" && moved) {
      editor.settle(gesture.before);
    } else if (kind === "point") {
      if (!this.#isDouble(event, place)) canvas.remove(hit);
    } else if (moved && !outside) {
      canvas.setBox(viewport.toShare(start), viewport.toShare(place));
    } else {
      this.#added = { time: event.timeStamp, place };
      canvas.addPoint(viewport.toShare(start), outside);
    }
    canvas.draw();
  }

  // A double click adds one point: its second click must not remove what the first one added.
  #isDouble(event, place) {
    if (!this.#added || event.timeStamp - this.#added.time > DOUBLE) return false;
    return this.canvas.isNear(this.#added.place, place);
  }

  // Escape was pressed, or the browser took the pointer away.
  cancel() {
    const gesture = this.#gesture;
    this.#gesture = null;
    if (gesture?.kind === "point" && gesture.moved) this.canvas.editor.restore(gesture.before);
    this.canvas.draw();
  }

  #wheel(event) {
    const { canvas } = this;
    // Without the focus the wheel belongs to the graph.
    if (!canvas.widget.image || !(canvas.hasFocus || canvas.widget.window.isOpen)) return;
    event.preventDefault();
    event.stopPropagation();
    canvas.viewport.zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), canvas.viewport.placeOf(event));
  }
}
