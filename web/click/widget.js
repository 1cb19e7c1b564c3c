// The node's widget: the state and everything that shows or changes it.
import { app } from "../../../scripts/app.js";
import { addStyle, button, element, setIcon } from "./dom.js";
import { ObjectList } from "./list.js";
import { Listener } from "./listen.js";
import { Masks } from "./masks.js";
import {
  connected, currentPicture, currentSegmenter, isPictureInput, loadPicture, sameReference, upload,
} from "./picture.js";
import { Stage } from "./stage.js";
import {
  emptyState, findable, History, MAX_OBJECTS, MAX_POINTS, newObject, readState, sameShape, scaled, writeState,
} from "./state.js";

const WATCH = 400; // ms between looks at what is connected
const FIRST = "Click on an object. Click right to exclude, drag to draw a box.";

export class ClickWidget {
  #history = new History();
  #text = ""; // the widget's value: exactly what was set, until something is clicked
  #broken = null; // what is wrong with a value that cannot be read
  #waiting = null; // time of a click whose mask is not drawn yet
  #stamp = 0; // of an uploaded file, which may replace one of the same name
  #loading = null;
  #maskError = null; // what the status line says of masks

  constructor(node) {
    this.node = node;
    this.state = emptyState();
    this.active = -1;
    this.picture = null;
    this.image = null; // the loaded picture
    this.size = null; // its width and height
    this.large = false;
    addStyle();
    this.masks = new Masks(() => this.stage.draw(), (status) => this.#maskStatus(status));
    this.stage = new Stage(this);
    this.player = new Listener(this);
    this.list = new ObjectList(this);
    this.root = element("div", { className: "sounding-click widget-expands" }, (this.panel = this.#build()));
    this.#keepEvents();
    this.timer = setInterval(() => this.look(), WATCH);
    this.changed();
  }

  // The widget's value

  get value() {
    return this.#text;
  }

  set value(text) {
    const next = typeof text === "string" ? text : "";
    if (next === this.#text) return;
    this.#text = next;
    this.#history.clear();
    this.#read();
    this.say("");
    this.changed();
  }

  get text() {
    return writeState(this.state);
  }

  #read() {
    try {
      this.state = readState(this.#text);
      this.#broken = null;
    } catch (error) {
      this.state = emptyState();
      this.#broken = `What was clicked cannot be read: ${error.message}. Clear it to begin anew.`;
    }
    this.active = Math.min(Math.max(this.active, 0), this.state.objects.length - 1);
  }

  remove() {
    clearInterval(this.timer);
    this.masks.close();
    this.player.close();
    this.dialog?.close();
    this.dialog?.remove();
  }

  // Changes

  // One step that can be undone; `said` is for the status line.
  edit(change, said) {
    if (!this.#editable()) return;
    const before = this.text;
    change(this.state);
    this.#step(before, said);
  }

  // A change under way: shown, and settled or restored in the end.
  live(change) {
    if (!this.#editable()) return;
    change(this.state);
    this.changed();
  }

  settle(before) {
    this.#step(before, "Point moved");
  }

  restore(before) {
    this.state = readState(before);
    this.changed();
  }

  #editable() {
    if (this.#broken || !sameShape(this.state.size, this.size)) {
      this.say("");
      return false;
    }
    if (this.size && String(this.state.size) !== String(this.size)) this.state = scaled(this.state, this.size);
    return true;
  }

  #step(before, said) {
    if (before === this.text) return;
    this.#history.push(before);
    const object = this.state.objects[this.active];
    if (object && !this.mask(object)) this.#waiting = performance.now();
    this.#commit();
    if (said) this.say(said);
  }

  #commit() {
    this.#text = this.text;
    this.active = Math.min(Math.max(this.active, 0), this.state.objects.length - 1);
    this.changed();
    this.node.graph?.setDirtyCanvas?.(true, true);
    // The frontend looks for changes when a mouse button goes up, but not after keys in here.
    const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
    if (tracker?.captureCanvasState) tracker.captureCanvasState();
    else tracker?.checkState?.();
  }

  undo() {
    this.#travel(this.#history.undo(this.text), "Undone");
  }

  redo() {
    this.#travel(this.#history.redo(this.text), "Redone");
  }

  #travel(text, said) {
    if (text === null) {
      this.say("Nothing more");
      return;
    }
    this.state = readState(text);
    this.#commit();
    this.say(said);
  }

  clear() {
    if (this.#broken) {
      this.#broken = null;
      this.#text = "";
      this.changed();
      return;
    }
    const before = this.text;
    this.state = emptyState();
    this.active = -1;
    this.#step(before, "All objects removed; undo brings them back");
  }

  addObject() {
    if (this.state.objects.length >= MAX_OBJECTS) return;
    this.edit((state) => {
      state.objects.push(newObject(state));
      this.active = state.objects.length - 1;
    }, "Now click on the object");
    this.stage.draw();
    this.list.rename(this.active);
  }

  removeObject(index) {
    this.edit((state) => state.objects.splice(index, 1), "Object removed");
  }

  select(index) {
    if (index === this.active) return;
    this.active = index;
    this.changed();
  }

  addPoint(kind, point) {
    this.edit((state) => {
      const object = this.#ready(state);
      if (object[kind].length < MAX_POINTS) object[kind].push(point);
    }, kind === "positive" ? "Point on the object" : "Point outside of the object");
  }

  setBox(box) {
    this.edit((state) => (this.#ready(state).box = box), "Box around the object");
  }

  // The object that clicks go to; the first click makes one.
  #ready(state) {
    if (!state.objects.length) state.objects.push(newObject(state));
    this.active = Math.max(this.active, 0);
    return state.objects[this.active];
  }

  play(index) {
    this.player.hear(index);
  }

  // The picture

  mask(object) {
    return this.picture && this.state.size && this.masks.of(this.picture, object, this.state.size);
  }

  // See which picture there is now, and load it if it is another one.
  look() {
    const { picture, wait } = currentPicture(this.node);
    if (this.root.isConnected && this.#linked() !== this.root.classList.contains("linked")) this.changed();
    // What masks depend on, beside the clicks.
    const next = picture && { ...picture, stamp: this.#stamp, segmenter: currentSegmenter(this.node) };
    if (sameReference(next, this.#loading)) return;
    this.#loading = next ?? null;
    if (!next) {
      this.picture = this.image = this.size = null;
      this.hint.textContent = wait;
      this.changed();
      return;
    }
    this.#show(next);
  }

  async #show(next) {
    const image = await loadPicture(next).catch(() => null);
    if (this.#loading !== next) return; // another one by now
    this.picture = image && next;
    this.image = image;
    this.size = image && [image.naturalWidth, image.naturalHeight];
    if (image) this.stage.fit();
    else this.hint.textContent = `${next.name} cannot be shown; choose another picture.`;
    this.changed();
  }

  async take(file) {
    if (!file) return;
    try {
      this.say(`Uploading ${file.name} …`);
      await upload(this.node, file);
      this.#stamp = Date.now();
      this.look();
      this.say(this.#imageLinked() ? "Uploaded; the connected picture goes before it" : "");
    } catch (error) {
      this.fail(error.message);
    }
  }

  #imageLinked() {
    return connected(this.node, isPictureInput) >= 0;
  }

  // Whether the state comes from another node.
  #linked() {
    return connected(this.node, (input) => input.widget?.name === "state") >= 0;
  }

  // Show

  changed() {
    const shape = sameShape(this.state.size, this.size);
    const problem =
      this.#broken ??
      (shape ? null : `The points belong to a picture of ${this.state.size.join(" x ")} pixels; this one has ${this.size.join(" x ")}.`);
    this.root.classList.toggle("linked", this.#linked());
    this.problem.hidden = !problem;
    this.problem.firstChild.textContent = problem ?? "";
    this.refit.hidden = Boolean(this.#broken);
    this.hint.hidden = Boolean(this.image);
    this.undoButton.disabled = !this.#history.canUndo;
    this.redoButton.disabled = !this.#history.canRedo;
    this.clearButton.disabled = !this.state.objects.length && !this.#broken;
    this.list.sync();
    this.player.panel.sync().catch((error) => this.fail(error.message));
    if (this.image && !this.state.objects.length && !this.status.textContent) this.say(FIRST);
    if (this.image && shape) this.masks.want(this.picture, this.state);
    else this.masks.want(null, this.state);
    this.stage.draw();
  }

  // The stage has drawn: if that is the first with the mask of the last click, note how long it took.
  drawn() {
    const object = this.state.objects[this.active];
    if (this.#waiting === null || !object || !findable(object) || !this.mask(object)) return;
    performance.measure("sounding-click-overlay", { start: this.#waiting, end: performance.now() });
    this.#waiting = null;
    const { share, score } = this.mask(object);
    this.say(`${object.name} covers ${(100 * share).toFixed(share < 0.1 ? 1 : 0)} % of the picture, score ${score.toFixed(2)}`);
  }

  say(text) {
    this.status.classList.remove("error");
    this.status.textContent = text;
  }

  fail(text) {
    this.status.classList.add("error");
    this.status.textContent = text;
  }

  #maskStatus({ busy, error }) {
    this.root.classList.toggle("busy", Boolean(busy));
    if (error) this.fail(error);
    else if (this.#maskError && !busy && this.status.textContent === this.#maskError) this.say("");
    if (!busy) this.#maskError = error;
  }

  // The points stretched over a picture of another shape.
  #stretch() {
    const before = this.text;
    this.state = scaled(this.state, this.size);
    this.#step(before, "Points stretched over the picture");
  }

  #unclick() {
    const before = this.text;
    for (const object of this.state.objects) Object.assign(object, { positive: [], negative: [], box: null });
    this.state.size = this.size;
    this.#step(before, "Points removed");
  }

  // The large window

  enlarge() {
    if (this.large) {
      this.dialog.close();
      return;
    }
    this.dialog ??= this.#window();
    this.dialog.append(this.panel);
    document.body.append(this.dialog);
    this.large = true;
    this.dialog.showModal();
    setIcon(this.largeButton, "close", "Close the large window");
    this.stage.canvas.focus();
    this.stage.fit();
  }

  #window() {
    const dialog = element("dialog", { className: "sounding-click-window sounding-click", ariaLabel: "Sound objects" });
    dialog.addEventListener("close", () => {
      this.large = false;
      this.root.append(this.panel);
      dialog.remove();
      setIcon(this.largeButton, "large", "Large window");
      this.stage.fit();
    });
    keepInside(dialog);
    return dialog;
  }

  // Elements

  #build() {
    const pick = element("input", {
      type: "file",
      accept: "image/*",
      hidden: true,
      onchange: () => {
        this.take(pick.files[0]);
        pick.value = "";
      },
    });
    this.undoButton = button("undo", "Undo (Ctrl+Z)", () => this.undo());
    this.redoButton = button("redo", "Redo (Ctrl+Shift+Z)", () => this.redo());
    this.clearButton = button("clear", "Remove all objects", () => this.clear());
    this.largeButton = button("large", "Large window", () => this.enlarge());
    const exclude = button("exclude", "Clicks exclude (or click right, or with Alt)", () => {
      this.stage.excluding = !this.stage.excluding;
      exclude.setAttribute("aria-pressed", String(this.stage.excluding));
    });
    exclude.setAttribute("aria-pressed", "false");
    const bar = element(
      "div",
      { className: "sounding-click-bar", role: "toolbar", ariaLabel: "Picture" },
      button("upload", "Upload a picture", () => pick.click()),
      pick,
      this.undoButton,
      this.redoButton,
      this.clearButton,
      exclude,
      element("span", { className: "sounding-click-space" }),
      button("minus", "Zoom out", () => this.stage.zoomBy(1 / 1.4)),
      button("fit", "Whole picture", () => this.stage.fit()),
      button("plus", "Zoom in", () => this.stage.zoomBy(1.4)),
      this.largeButton,
    );
    this.hint = element("div", { className: "sounding-click-hint" });
    this.refit = element("button", { type: "button", onclick: () => this.#stretch() }, "Stretch them");
    this.problem = element(
      "div",
      { className: "sounding-click-problem", role: "alert", hidden: true },
      element("span"),
      element(
        "span",
        {},
        this.refit,
        element("button", { type: "button", onclick: () => (this.#broken ? this.clear() : this.#unclick()) }, "Clear"),
      ),
    );
    this.status = element("div", { className: "sounding-click-status", role: "status" });
    const view = element("div", { className: "sounding-click-view" }, this.stage.canvas, this.hint, this.problem);
    const left = element("div", { className: "sounding-click-left" }, bar, view, this.status);
    const right = element("div", { className: "sounding-click-right" }, this.list.root, this.player.root);
    const panel = element("div", { className: "sounding-click-panel" }, left, right);
    panel.setAttribute("title", ""); // else the widget's tooltip hangs over the picture
    for (const kind of ["dragenter", "dragover"]) {
      panel.addEventListener(kind, (event) => {
        if (![...(event.dataTransfer?.items ?? [])].some((item) => item.kind === "file")) return;
        event.preventDefault();
        event.stopPropagation();
        panel.classList.add("drop");
      });
    }
    panel.addEventListener("dragleave", () => panel.classList.remove("drop"));
    panel.addEventListener("drop", (event) => {
      panel.classList.remove("drop");
      if (!event.dataTransfer?.files.length) return;
      event.preventDefault();
      event.stopPropagation();
      this.take(event.dataTransfer.files[0]);
    });
    panel.addEventListener("paste", (event) => {
      const file = [...(event.clipboardData?.files ?? [])][0];
      if (!file) return;
      event.preventDefault();
      event.stopPropagation();
      this.take(file);
    });
    panel.addEventListener("focusin", () => this.root.setAttribute("data-capture-wheel", "true"));
    panel.addEventListener("focusout", () => this.root.removeAttribute("data-capture-wheel"));
    return panel;
  }

  #keepEvents() {
    keepInside(this.root);
    // Pictures may also be dropped on the node's frame, or pasted while it is chosen.
    this.node.onDragOver = (event) => [...(event.dataTransfer?.items ?? [])].some((item) => item.kind === "file");
    this.node.onDragDrop = (event) => {
      this.take(event.dataTransfer?.files?.[0]);
      return true;
    };
    this.node.pasteFile = (file) => this.take(file);
  }
}

// Clicks and keys in here are not the graph's.
function keepInside(root) {
  for (const kind of ["pointerdown", "pointermove", "dblclick", "contextmenu", "keyup"]) {
    root.addEventListener(kind, (event) => event.stopPropagation());
  }
  root.addEventListener("keydown", (event) => {
    // The graph's own commands (queue, save) go on working; single keys and undo do not reach it.
    const command = (event.ctrlKey || event.metaKey) && !"zya".includes(event.key.toLowerCase());
    if (!command) event.stopPropagation();
  });
}
