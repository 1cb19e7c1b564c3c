// The keys on the image: a cursor that sets points and boxes, zoom, undo, and the space bar to pan.

export class Keys {
  cursor = null; // place in the image, 0..1
  corner = null; // first corner of a box, likewise
  space = false; // held down: the pointer pans

  constructor(canvas) {
    this.canvas = canvas;
    const { element } = canvas;
    element.addEventListener("keydown", (event) => this.#down(event));
    element.addEventListener("keyup", (event) => event.key === " " && this.#setSpace(false));
    element.addEventListener("blur", () => this.#setSpace(false));
  }

  // The two corners in the image of a box that is being set, or null.
  get box() {
    return this.corner && this.cursor ? [this.corner, this.cursor] : null;
  }

  #down(event) {
    const { canvas } = this;
    const { editor, viewport } = canvas;
    const command = event.ctrlKey || event.metaKey;
    const key = event.key.toLowerCase();
    if (command && (key === "z" || key === "y")) {
      if (key === "y" || event.shiftKey) editor.redo();
      else editor.undo();
    } else if (command || event.altKey || !canvas.widget.image || key === "tab") {
      return; // the graph's, or the browser's
    } else if (key.startsWith("arrow")) {
      this.#step(key.slice(5), event.shiftKey);
    } else if (key === "enter") {
      canvas.addPoint(this.#place(), event.shiftKey || canvas.excluding);
    } else if (key === "delete" || key === "backspace") {
      this.#erase();
    } else if (key === "b") {
      this.#setCorner();
    } else if (key === "+" || key === "=" || key === "-") {
      viewport.zoomBy(key === "-" ? 1 / 1.25 : 1.25, this.cursor && viewport.fromShare(this.cursor));
    } else if (key === "0") {
      viewport.fit();
    } else if (key === " ") {
      this.#setSpace(true);
    } else if (key === "escape" && (canvas.pointer.isDown || this.corner || this.cursor)) {
      canvas.pointer.cancel();
      this.corner = this.cursor = null;
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
    canvas.draw();
  }

  #setSpace(down) {
    this.space = down;
    this.canvas.element.style.cursor = down ? "grab" : "";
  }

  // The cursor, which starts in the middle of what is visible.
  #place() {
    this.cursor ??= { ...this.canvas.viewport.center };
    return this.cursor;
  }

  #step(direction, fine) {
    const { viewport, editor, element } = this.canvas;
    const { x, y } = this.#place();
    const [width, height] = editor.size;
    const step = fine ? 1 : (0.02 * Math.max(width, height)) / viewport.zoom; // pixels of the image
    const across = { left: -1, right: 1 }[direction] ?? 0;
    const down = { up: -1, down: 1 }[direction] ?? 0;
    const inside = (value) => Math.min(1, Math.max(0, value));
    this.cursor = { x: inside(x + (across * step) / width), y: inside(y + (down * step) / height) };
    const there = viewport.fromShare(this.cursor);
    const { clientWidth, clientHeight } = element;
    if (there.x < 0 || there.y < 0 || there.x > clientWidth || there.y > clientHeight) viewport.moveTo(this.cursor);
  }

  // Remove the point under the cursor, else the newest of the object, else its box.
  #erase() {
    const { canvas } = this;
    const hit = this.cursor && canvas.hitAt(canvas.viewport.fromShare(this.cursor));
    const { active: index, activeObject: object } = canvas.editor;
    if (hit) canvas.remove(hit);
    else if (object?.positive.length) canvas.remove({ index, kind: "positive", i: object.positive.length - 1 });
    else if (object?.negative.length) canvas.remove({ index, kind: "negative", i: object.negative.length - 1 });
    else if (object?.box) canvas.remove({ index, kind: "box" });
  }

  #setCorner() {
    const place = this.#place();
    if (this.corner) {
      this.canvas.setBox(this.corner, place);
      this.corner = null;
    } else {
      this.corner = { ...place };
      this.canvas.widget.say("Corner set; move the cursor to the opposite corner and press B");
    }
  }
}
