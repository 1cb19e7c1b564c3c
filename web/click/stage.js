// The picture with its masks and points: drawing, pointer, keys, zoom.
import { tinted } from "./masks.js";
import { short } from "./state.js";

const POINT = 7; // radius of a point, in pixels of the screen
const REACH = 11; // how near a click has to be to take hold of a point
const DRAG = 4; // how far a pointer goes before it drags
const TWICE = 400; // ms: a second click this soon is a double click
const ZOOM = [1, 32];

export class Stage {
  #view = { zoom: 1, x: 0.5, y: 0.5 }; // x, y: the place of the picture in the middle of the canvas
  #hold = null; // what a pointer is doing
  #cursor = null; // the keys' place in the picture, 0..1
  #corner = null; // the first corner of a box drawn by keys
  #space = false;
  #added = null; // {time, place} of the last point that came by a click
  #frame = 0;

  constructor(model) {
    this.model = model;
    this.excluding = false; // plain clicks add points outside of the object
    const canvas = (this.canvas = document.createElement("canvas"));
    canvas.className = "sounding-click-stage";
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "application");
    canvas.setAttribute(
      "aria-label",
      "Picture. Arrow keys move a cursor, Enter adds a point on the object, Shift Enter one outside of it, Delete " +
        "removes a point, B sets the corners of a box, plus and minus zoom, Control Z undoes.",
    );
    // The frontend leaves undo keys to text fields and has no other way to ask for that: older versions know them by
    // their type, newer ones by whether they can be edited.
    canvas.type = "textarea";
    Object.defineProperty(canvas, "isContentEditable", { value: true });
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#up(event));
    canvas.addEventListener("pointercancel", () => this.#drop());
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    // Else the middle button scrolls by itself on Windows, and pastes nodes into the graph on Linux.
    for (const kind of ["mousedown", "mouseup", "auxclick"]) {
      canvas.addEventListener(kind, (event) => event.button === 1 && event.preventDefault());
    }
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("keyup", (event) => this.#keyUp(event));
    canvas.addEventListener("blur", () => this.#setSpace(false));
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  fit() {
    this.#view = { zoom: 1, x: 0.5, y: 0.5 };
    this.draw();
  }

  zoomBy(factor, at = null) {
    const place = at ?? { x: this.canvas.clientWidth / 2, y: this.canvas.clientHeight / 2 };
    const before = this.#toPicture(place);
    this.#view.zoom = Math.min(ZOOM[1], Math.max(ZOOM[0], this.#view.zoom * factor));
    const after = this.#toPicture(place);
    this.#look(this.#view.x + before.x - after.x, this.#view.y + before.y - after.y);
  }

  draw() {
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(() => this.#draw());
  }

  // Places: {x, y} in CSS pixels of the canvas, or in shares of the picture's sides.

  #frameOf() {
    const { size } = this.model;
    const { clientWidth, clientHeight } = this.canvas;
    const scale = Math.min(clientWidth / size[0], clientHeight / size[1]) * this.#view.zoom;
    const [width, height] = [size[0] * scale, size[1] * scale];
    return {
      width,
      height,
      left: clientWidth / 2 - this.#view.x * width,
      top: clientHeight / 2 - this.#view.y * height,
    };
  }

  #toPicture({ x, y }) {
    const { left, top, width, height } = this.#frameOf();
    return { x: (x - left) / width, y: (y - top) / height };
  }

  // A place of the state's pixels on the canvas.
  #toCanvas({ x, y }) {
    const { left, top, width, height } = this.#frameOf();
    const [w, h] = this.model.state.size ?? this.model.size;
    return { x: left + (x / w) * width, y: top + (y / h) * height };
  }

  // A share of the picture as a point of the state, inside the picture.
  #toState({ x, y }) {
    const [width, height] = this.model.size;
    const inside = (value, most) => short(Math.min(most - 0.5, Math.max(0, value * most)));
    return { x: inside(x, width), y: inside(y, height) };
  }

  // The canvas may be shown larger or smaller than it is laid out: the graph zooms.
  #place(event) {
    const box = this.canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) / box.width) * this.canvas.clientWidth,
      y: ((event.clientY - box.top) / box.height) * this.canvas.clientHeight,
    };
  }

  #look(x, y) {
    const free = 0.5 - 0.5 / this.#view.zoom;
    const inside = (value) => Math.min(0.5 + free, Math.max(0.5 - free, value));
    this.#view = { zoom: this.#view.zoom, x: inside(x), y: inside(y) };
    this.draw();
  }

  #hit(place) {
    const { state, active } = this.model;
    const order = [active, ...state.objects.keys()].filter((i, n, all) => state.objects[i] && all.indexOf(i) === n);
    let best = null;
    for (const index of order) {
      const object = state.objects[index];
      for (const kind of ["positive", "negative"]) {
        object[kind].forEach((point, i) => {
          const there = this.#toCanvas(point);
          const far = Math.hypot(there.x - place.x, there.y - place.y);
          if (far <= REACH && (!best || far < best.far)) best = { index, kind, i, far };
        });
      }
      if (object.box && index === active) {
        const there = this.#toCanvas({ x: object.box[2], y: object.box[1] });
        const far = Math.hypot(there.x - place.x, there.y - place.y);
        if (far <= REACH && (!best || far < best.far)) best = { index, kind: "box", far };
      }
      if (best && index === active) break;
    }
    return best;
  }

  // Pointer

  #down(event) {
    this.canvas.focus({ preventScroll: true });
    this.#cursor = null;
    if (!this.model.image || this.#hold) return;
    this.canvas.setPointerCapture(event.pointerId);
    const start = this.#place(event);
    if (event.button === 1 || (event.button === 0 && this.#space)) {
      this.#hold = { what: "pan", start, view: { ...this.#view } };
      return;
    }
    const outside = event.button === 2 || event.altKey || event.ctrlKey || this.excluding;
    const hit = this.#hit(start);
    this.#hold = { what: hit ? "point" : "new", hit, outside, start, moved: false, before: this.model.text };
  }

  #move(event) {
    const place = this.#place(event);
    const hold = this.#hold;
    if (!hold) {
      if (this.model.image) this.canvas.style.cursor = this.#space ? "grab" : this.#hit(place) ? "pointer" : "crosshair";
      return;
    }
    if (hold.what === "pan") {
      const { width, height } = this.#frameOf();
      const { view, start } = hold;
      this.#look(view.x - (place.x - start.x) / width, view.y - (place.y - start.y) / height);
      return;
    }
    hold.moved ||= Math.hypot(place.x - hold.start.x, place.y - hold.start.y) > DRAG;
    hold.place = place;
    if (hold.moved && hold.what === "point" && hold.hit.kind !== "box") {
      const point = this.#toState(this.#toPicture(place));
      this.model.live((state) => (state.objects[hold.hit.index][hold.hit.kind][hold.hit.i] = point));
    }
    this.draw();
  }

  #up(event) {
    const hold = this.#hold;
    this.#hold = null;
    if (!hold || hold.what === "pan" || !this.model.image) return;
    const place = this.#place(event);
    const { hit, moved, start } = hold;
    if (hold.what === "point" && hit.index !== this.model.active && !moved) {
      this.model.select(hit.index);
    } else if (hold.what === "point" && moved) {
      this.model.settle(hold.before);
    } else if (hold.what === "point") {
      if (!this.#isDouble(event, place)) this.#remove(hit);
    } else if (moved && !hold.outside) {
      this.#box(this.#toPicture(start), this.#toPicture(place));
    } else {
      this.#added = { time: event.timeStamp, place };
      this.#add(this.#toPicture(start), hold.outside);
    }
    this.draw();
  }

  // A double click adds one point: its second click does not remove what the first has added.
  #isDouble(event, { x, y }) {
    if (!this.#added || event.timeStamp - this.#added.time > TWICE) return false;
    return Math.hypot(this.#added.place.x - x, this.#added.place.y - y) <= REACH;
  }

  // Escape, or the browser took the pointer away.
  #drop() {
    const hold = this.#hold;
    this.#hold = null;
    if (hold?.what === "point" && hold.moved) this.model.restore(hold.before);
    this.draw();
  }

  #add(share, outside) {
    if (share.x < 0 || share.y < 0 || share.x > 1 || share.y > 1) return;
    this.model.addPoint(outside ? "negative" : "positive", this.#toState(share));
  }

  #box(a, b) {
    const [p, q] = [this.#toState(a), this.#toState(b)];
    const box = [Math.min(p.x, q.x), Math.min(p.y, q.y), Math.max(p.x, q.x), Math.max(p.y, q.y)];
    if (box[2] - box[0] >= 2 && box[3] - box[1] >= 2) this.model.setBox(box);
  }

  #remove({ index, kind, i }) {
    if (kind === "box") this.model.edit((state) => (state.objects[index].box = null), "Box removed");
    else this.model.edit((state) => state.objects[index][kind].splice(i, 1), "Point removed");
  }

  #wheel(event) {
    // Without the focus the wheel is the graph's.
    if (!this.model.image || (document.activeElement !== this.canvas && !this.model.large)) return;
    event.preventDefault();
    event.stopPropagation();
    this.zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), this.#place(event));
  }

  // Keys

  #key(event) {
    const command = event.ctrlKey || event.metaKey;
    const key = event.key.toLowerCase();
    if (command && (key === "z" || key === "y")) {
      if (key === "y" || event.shiftKey) this.model.redo();
      else this.model.undo();
    } else if (command || event.altKey || !this.model.image || key === "tab") {
      return; // not ours
    } else if (key.startsWith("arrow")) {
      this.#step(key.slice(5), event.shiftKey);
    } else if (key === "enter") {
      this.#cursor ??= this.#middle();
      this.#add(this.#cursor, event.shiftKey || this.excluding);
    } else if (key === "delete" || key === "backspace") {
      this.#erase();
    } else if (key === "b") {
      this.#cornerKey();
    } else if (key === "+" || key === "=" || key === "-") {
      this.zoomBy(key === "-" ? 1 / 1.25 : 1.25, this.#cursor && this.#toCanvasShare(this.#cursor));
    } else if (key === "0") {
      this.fit();
    } else if (key === " ") {
      this.#setSpace(true);
    } else if (key === "escape" && (this.#hold || this.#corner || this.#cursor)) {
      this.#drop();
      this.#corner = this.#cursor = null;
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
    this.draw();
  }

  #keyUp(event) {
    if (event.key === " ") this.#setSpace(false);
  }

  #setSpace(down) {
    this.#space = down;
    this.canvas.style.cursor = down ? "grab" : "";
  }

  // Where the keys' cursor begins: in the middle of what is seen.
  #middle() {
    return { x: this.#view.x, y: this.#view.y };
  }

  #step(direction, fine) {
    this.#cursor ??= this.#middle();
    const [width, height] = this.model.size;
    const step = fine ? 1 : (0.02 * Math.max(width, height)) / this.#view.zoom; // pixels of the picture
    const across = { left: -1, right: 1 }[direction] ?? 0;
    const down = { up: -1, down: 1 }[direction] ?? 0;
    const inside = (value) => Math.min(1, Math.max(0, value));
    this.#cursor = {
      x: inside(this.#cursor.x + (across * step) / width),
      y: inside(this.#cursor.y + (down * step) / height),
    };
    const there = this.#toCanvasShare(this.#cursor);
    const { clientWidth, clientHeight } = this.canvas;
    if (there.x < 0 || there.y < 0 || there.x > clientWidth || there.y > clientHeight) {
      this.#look(this.#cursor.x, this.#cursor.y);
    }
  }

  // The point under the cursor, else the newest of the object, else its box.
  #erase() {
    const hit = this.#cursor && this.#hit(this.#toCanvasShare(this.#cursor));
    const index = this.model.active;
    const object = this.model.state.objects[index];
    if (hit) this.#remove(hit);
    else if (object?.positive.length) this.#remove({ index, kind: "positive", i: object.positive.length - 1 });
    else if (object?.negative.length) this.#remove({ index, kind: "negative", i: object.negative.length - 1 });
    else if (object?.box) this.#remove({ index, kind: "box" });
  }

  #cornerKey() {
    this.#cursor ??= this.#middle();
    if (!this.#corner) {
      this.#corner = { ...this.#cursor };
      this.model.say("Corner set; move the cursor to the other corner and press B");
    } else {
      this.#box(this.#corner, this.#cursor);
      this.#corner = null;
    }
  }

  #toCanvasShare({ x, y }) {
    const { left, top, width, height } = this.#frameOf();
    return { x: left + x * width, y: top + y * height };
  }

  // Drawing

  #draw() {
    const { canvas, model } = this;
    const { clientWidth, clientHeight } = canvas;
    if (!clientWidth || !clientHeight) return;
    const shown = canvas.getBoundingClientRect().width / clientWidth || 1;
    const sharp = (window.devicePixelRatio || 1) * Math.min(2, Math.max(1, shown));
    const [width, height] = [Math.round(clientWidth * sharp), Math.round(clientHeight * sharp)];
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.setTransform(sharp, 0, 0, sharp, 0, 0);
    context.clearRect(0, 0, clientWidth, clientHeight);
    if (!model.image) return;
    const frame = this.#frameOf();
    const into = [frame.left, frame.top, frame.width, frame.height];
    context.imageSmoothingEnabled = frame.width < model.size[0] * 3;
    context.drawImage(model.image, ...into);
    context.imageSmoothingEnabled = true;
    const objects = [...model.state.objects.entries()].sort(([i], [j]) => (i === model.active) - (j === model.active));
    for (const [, object] of objects) {
      const mask = object.on && model.mask(object);
      if (!mask) continue;
      const [fill, edge] = tinted(mask, object.colour);
      context.globalAlpha = 0.5;
      context.drawImage(fill, ...into);
      context.globalAlpha = 1;
      context.drawImage(edge, ...into);
    }
    for (const [i, object] of objects) this.#drawPrompts(context, object, i === model.active);
    this.#drawHold(context);
    this.#drawCursor(context);
    model.drawn();
  }

  #drawPrompts(context, object, active) {
    context.globalAlpha = object.on ? 1 : 0.4;
    if (object.box) {
      const a = this.#toCanvas({ x: object.box[0], y: object.box[1] });
      const b = this.#toCanvas({ x: object.box[2], y: object.box[3] });
      drawBox(context, a, b, object.colour);
      if (active) drawMark(context, { x: b.x, y: a.y }, "#1d1d1d", "x", POINT);
    }
    const radius = active ? POINT : POINT - 2;
    for (const point of object.positive) drawMark(context, this.#toCanvas(point), object.colour, "+", radius);
    for (const point of object.negative) drawMark(context, this.#toCanvas(point), "#c22f2f", "-", radius);
    context.globalAlpha = 1;
  }

  #drawHold(context) {
    const { active, state } = this.model;
    const colour = state.objects[active]?.colour ?? "#ffffff";
    const hold = this.#hold;
    if (hold?.what === "new" && hold.moved && !hold.outside) drawBox(context, hold.start, hold.place, colour);
    if (this.#corner && this.#cursor) {
      drawBox(context, this.#toCanvasShare(this.#corner), this.#toCanvasShare(this.#cursor), colour);
    }
  }

  #drawCursor(context) {
    if (!this.#cursor || document.activeElement !== this.canvas) return;
    const { x, y } = this.#toCanvasShare(this.#cursor);
    for (const [width, colour] of [[4, "#000000"], [1.5, "#ffffff"]]) {
      context.lineWidth = width;
      context.strokeStyle = colour;
      context.beginPath();
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        context.moveTo(x + dx * 4, y + dy * 4);
        context.lineTo(x + dx * 14, y + dy * 14);
      }
      context.stroke();
    }
  }
}

function drawBox(context, a, b, colour) {
  for (const [width, stroke, dash] of [[3, "#000000a0", []], [1.5, colour, [6, 4]]]) {
    context.lineWidth = width;
    context.strokeStyle = stroke;
    context.setLineDash(dash);
    context.strokeRect(Math.min(a.x, b.x), Math.min(a.y, b.y), Math.abs(a.x - b.x), Math.abs(a.y - b.y));
  }
  context.setLineDash([]);
}

// A disc with a sign in it: + on the object, - outside, x to remove.
function drawMark(context, { x, y }, colour, sign, radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fillStyle = colour;
  context.fill();
  context.lineWidth = 3.5;
  context.strokeStyle = "#000000b0";
  context.stroke();
  context.lineWidth = 2;
  context.strokeStyle = "#ffffff";
  context.stroke();
  const arm = radius * 0.5;
  context.beginPath();
  if (sign === "x") {
    context.moveTo(x - arm, y - arm);
    context.lineTo(x + arm, y + arm);
    context.moveTo(x - arm, y + arm);
    context.lineTo(x + arm, y - arm);
  } else {
    context.moveTo(x - arm, y);
    context.lineTo(x + arm, y);
    if (sign === "+") {
      context.moveTo(x, y - arm);
      context.lineTo(x, y + arm);
    }
  }
  context.strokeStyle = sign === "+" ? "#000000" : "#ffffff";
  context.stroke();
}
