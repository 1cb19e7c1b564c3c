// The node's widget: ties together the state under edit, the image, the masks, the canvas, the list and the sounds.
import { app } from "../../../scripts/app.js";
import { addBaseStyle, addStyle, element, keepEvents } from "../page/elements.js";
import { StudyPanel } from "../study/panel.js";
import { study } from "../study/study.js";
import { ImageCanvas } from "./canvas.js";
import { Editor } from "./editor.js";
import {
  chooseImage, connectedImage, connectedSlot, isImageInput, loadImage, sameReference, segmenterName, upload,
} from "./image.js";
import { LargeWindow } from "./large_window.js";
import { Masks } from "./masks.js";
import { ObjectList } from "./object_list.js";
import { Panel } from "./panel.js";
import { foreignTo, foundName, sureOf } from "./names.js";
import { Preview } from "./preview.js";
import { soundingCheckpoint } from "./sound_graph.js";
import { hasPlace } from "./state.js";

const WATCH = 400; // ms between looks at what is connected
const FIRST = "Click on an object. Click right to exclude, drag to draw a box.";

export class ClickWidget {
  #clicked = null; // when the last click was made, while its mask is not drawn yet
  #stamp = 0; // of an uploaded file, which may replace one of the same name
  #loading = null; // reference of the image that is shown or on its way

  constructor(node) {
    this.node = node;
    this.reference = null; // the image that is shown: {name, subfolder, type, stamp, segmenter}
    this.image = null; // its element, loaded
    addBaseStyle();
    addStyle(new URL("./click.css", import.meta.url));
    this.editor = new Editor({
      onChange: () => this.changed(),
      onStep: (object) => this.#awaitMask(object),
      onCommit: () => this.#markChanged(),
      onAct: (act) => study.note("edit", { act, object: this.editor.active }),
      say: (text) => this.say(text),
    });
    this.masks = new Masks({
      onChange: () => this.changed(),
      onStatus: (status) => this.#maskStatus(status),
      checkpoint: () => soundingCheckpoint(node),
    });
    this.canvas = new ImageCanvas(this);
    this.preview = new Preview(this);
    this.list = new ObjectList(this);
    this.study = new StudyPanel(this);
    this.panel = new Panel(this);
    this.root = element("div", { className: "sounding-click widget-expands" }, this.panel.root);
    this.window = new LargeWindow(this);
    keepEvents(this.root);
    this.#acceptFiles();
    this.timer = setInterval(() => this.look(), WATCH);
    this.changed();
  }

  // The string that the workflow keeps.
  get value() {
    return this.editor.value;
  }

  set value(text) {
    this.editor.value = text;
  }

  remove() {
    clearInterval(this.timer);
    this.masks.close();
    this.preview.close();
    this.study.close();
    this.window.close();
  }

  // The image

  maskOf(object) {
    const { size } = this.editor.state;
    return this.reference && size && this.masks.of(this.reference, object, size);
  }

  // See which image is chosen or connected now, and load it if it is another one.
  look() {
    const { reference, wait } = connectedImage(this.node);
    if (this.root.isConnected && this.isStateLinked !== this.root.classList.contains("linked")) this.changed();
    // Everything that masks depend on, beside the clicks.
    const next = reference && { ...reference, stamp: this.#stamp, segmenter: segmenterName(this.node) };
    if (sameReference(next, this.#loading)) return;
    this.#loading = next ?? null;
    if (next) {
      this.#show(next);
      return;
    }
    this.reference = this.image = this.editor.size = null;
    this.panel.hint.textContent = wait;
    this.changed();
  }

  async #show(next) {
    const image = await loadImage(next).catch(() => null);
    if (this.#loading !== next) return; // another one by now
    this.reference = image && next;
    this.image = image;
    this.editor.size = image && [image.naturalWidth, image.naturalHeight];
    if (image) this.canvas.viewport.fit();
    else this.panel.hint.textContent = `${next.name} cannot be shown; choose another image.`;
    this.changed();
  }

  // Upload a file and choose it.
  async take(file) {
    if (!file) return;
    try {
      this.say(`Uploading ${file.name} …`);
      await upload(this.node, file);
      this.#stamp = Date.now();
      this.look();
      this.say(connectedSlot(this.node, isImageInput) >= 0 ? "Uploaded; the connected image takes precedence" : "");
    } catch (error) {
      this.fail(error.message);
    }
  }

  // Begin anew, on an image of the list or the one that is shown: nothing is clicked, and no sound is kept.
  renew(image) {
    if (image) chooseImage(this.node, image);
    this.editor.value = "";
    this.preview.forget();
    this.look();
    this.#markChanged();
  }

  // Files may also be dropped on the node's frame, or pasted while the node is selected.
  #acceptFiles() {
    this.node.onDragOver = (event) => [...(event.dataTransfer?.items ?? [])].some((item) => item.kind === "file");
    this.node.onDragDrop = (event) => {
      this.take(event.dataTransfer?.files?.[0]);
      return true;
    };
    this.node.pasteFile = (file) => this.take(file);
  }

  // Whether the state comes from another node.
  get isStateLinked() {
    return connectedSlot(this.node, (input) => input.widget?.name === "state") >= 0;
  }

  // Show

  changed() {
    const { editor } = this;
    editor.giveNames((object) => foundName(this.maskOf(object)?.named));
    this.root.classList.toggle("linked", this.isStateLinked);
    this.panel.sync();
    this.list.sync();
    this.preview.player.sync().catch((error) => this.fail(error.message));
    if (this.image && !editor.state.objects.length && !this.panel.said) this.say(FIRST);
    this.masks.want(this.image && editor.fitsImage ? this.reference : null, editor.state);
    this.canvas.draw();
  }

  say(text) {
    this.panel.say(text);
  }

  fail(text) {
    this.panel.fail(text);
  }

  #maskStatus({ busy = false, error = null }) {
    this.root.classList.toggle("busy", busy);
    this.panel.showMaskError(error, busy);
  }

  // A step was made; how long its mask takes to appear is measured.
  #awaitMask(object) {
    if (object && !this.maskOf(object)) this.#clicked = performance.now();
  }

  // The canvas was drawn, possibly with the mask of the last click for the first time.
  drawn() {
    const object = this.editor.activeObject;
    if (this.#clicked === null || !object || !hasPlace(object) || !this.maskOf(object)) return;
    const end = performance.now();
    performance.measure("sounding-click-overlay", { start: this.#clicked, end });
    study.note("mask", { object: this.editor.active, waited: Math.round(end - this.#clicked) / 1000 });
    this.#clicked = null;
    const { share, score } = this.maskOf(object);
    const percent = (100 * share).toFixed(share < 0.1 ? 1 : 0);
    const named = object.auto ? this.maskOf(object).named : null;
    const covers = `covers ${percent} % of the image, score ${score.toFixed(2)}`;
    this.say(foreignTo(named) || `${object.name}${sureOf(named)} ${covers}`);
  }

  // The frontend looks for changes when a mouse button goes up, but not after keys in here.
  #markChanged() {
    this.node.graph?.setDirtyCanvas?.(true, true);
    const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
    if (tracker?.captureCanvasState) tracker.captureCanvasState();
    else tracker?.checkState?.();
  }
}
