// The state under edit: what is clicked, which object clicks go to, and undo. Every step becomes the widget's value.
import { History } from "./history.js";
import { emptyState, giveName, MAX_OBJECTS, MAX_POINTS, newObject, readState, sameShape, scaled, writeState } from "./state.js";

// What the status line says of each step, by names that a study's log has too (nodes/click/study_log.py).
const SAID = {
  point_on: "Point on the object",
  point_outside: "Point outside the object",
  box: "Box around the object",
  move: "Point moved",
  remove_point: "Point removed",
  remove_box: "Box removed",
  remove_points: "Points removed",
  stretch: "Points stretched over the image",
  add_object: "Now click on the object",
  remove_object: "Object removed",
  rename: "Renamed",
  unname: "Named by the node",
  colour: "Colour changed",
  switch: "Switched",
  gain: "Gain changed",
  clear: "All objects removed; undo brings them back",
  undo: "Undone",
  redo: "Redone",
};

export class Editor {
  #history = new History();
  #value = ""; // exactly what was set, until something is edited
  #unreadable = null; // why the value cannot be read
  #isOurs = false; // whether the value is a step made here, not one that was set
  #isMoving = false; // whether a change is in progress
  state = emptyState();
  active = -1; // number of the object that clicks go to
  size = null; // width and height of the image that is shown

  // onChange(): show the state. onStep(object): a step was made in that object and is not shown yet. onCommit(): the
  // value has changed, and is shown. onAct(act): a person has done something, by its name above. say(text): tell the
  // user.
  constructor({ onChange, onStep, onCommit, onAct, say }) {
    Object.assign(this, { onChange, onStep, onCommit, onAct, say });
  }

  // The widget's value

  get value() {
    return this.#value;
  }

  set value(text) {
    const next = typeof text === "string" ? text : "";
    if (next === this.#value) return;
    this.#value = next;
    this.#isOurs = false;
    this.#history.clear();
    this.#read();
    this.say("");
    this.onChange();
  }

  // The state as a string.
  get text() {
    return writeState(this.state);
  }

  get activeObject() {
    return this.state.objects[this.active];
  }

  #read() {
    try {
      this.state = readState(this.#value);
      this.#unreadable = null;
    } catch (error) {
      this.state = emptyState();
      this.#unreadable = `What was clicked cannot be read: ${error.message}. Clear it to start again.`;
    }
    this.#keepActive();
  }

  #keepActive() {
    this.active = Math.min(Math.max(this.active, 0), this.state.objects.length - 1);
  }

  // What stands in the way of edits

  get isReadable() {
    return this.#unreadable === null;
  }

  get fitsImage() {
    return sameShape(this.state.size, this.size);
  }

  // A sentence, or null.
  get problem() {
    if (this.#unreadable) return this.#unreadable;
    if (this.fitsImage) return null;
    const [clicked, shown] = [this.state.size, this.size].map((size) => size.join(" x "));
    return `The points belong to an image of ${clicked} pixels; this one has ${shown}.`;
  }

  get canUndo() {
    return this.#history.canUndo;
  }

  get canRedo() {
    return this.#history.canRedo;
  }

  get canClear() {
    return this.state.objects.length > 0 || !this.isReadable;
  }

  // Edits

  // One step that can be undone; `act` is one of the names above.
  edit(change, act) {
    if (!this.#prepare()) return;
    const before = this.text;
    change(this.state);
    this.#step(before, act);
  }

  // A change in progress, such as a drag: shown at once, and settled or restored at its end.
  editLive(change) {
    if (!this.#prepare()) return;
    this.#isMoving = true;
    change(this.state);
    this.onChange();
  }

  settle(before) {
    this.#isMoving = false;
    this.#step(before, "move");
  }

  restore(before) {
    this.#isMoving = false;
    this.state = readState(before);
    this.onChange();
  }

  // Give objects the names that their masks show, "" for one that nobody can tell; null is not known yet. That is no step
  // of its own: undo takes it back with the click. A value that was set, by the graph's undo say, keeps its names, or
  // that undo would never get past this change.
  giveNames(nameOf) {
    if (!this.#isOurs || this.#isMoving) return;
    const given = this.state.objects.filter((object) => {
      const name = nameOf(object);
      return name !== null && giveName(this.state, object, name);
    });
    if (given.length) this.#commit();
  }

  // Bring the state to the image's size; false where it cannot be edited.
  #prepare() {
    if (!this.isReadable || !this.fitsImage) {
      this.say("");
      return false;
    }
    if (this.size && String(this.state.size) !== String(this.size)) this.state = scaled(this.state, this.size);
    return true;
  }

  #step(before, act) {
    if (before === this.text) return;
    this.#history.push(before);
    this.onStep(this.activeObject);
    this.#commit();
    this.#tell(act);
  }

  #tell(act) {
    this.say(SAID[act]);
    this.onAct(act);
  }

  #commit() {
    this.#value = this.text;
    this.#isOurs = true;
    this.#keepActive();
    this.onChange();
    this.onCommit();
  }

  undo() {
    this.#travel(this.#history.undo(this.text), "undo");
  }

  redo() {
    this.#travel(this.#history.redo(this.text), "redo");
  }

  #travel(text, act) {
    if (text === null) {
      this.say("Nothing more");
      return;
    }
    this.state = readState(text);
    this.#commit();
    this.#tell(act);
  }

  clear() {
    if (!this.isReadable) {
      this.#unreadable = null;
      this.#value = "";
      this.onChange();
      return;
    }
    const before = this.text;
    this.state = emptyState();
    this.active = -1;
    this.#step(before, "clear");
  }

  // Stretch the points over an image of another shape.
  stretch() {
    const before = this.text;
    this.state = scaled(this.state, this.size);
    this.#step(before, "stretch");
  }

  removePoints() {
    const before = this.text;
    for (const object of this.state.objects) Object.assign(object, { positive: [], negative: [], box: null });
    this.state.size = this.size;
    this.#step(before, "remove_points");
  }

  select(index) {
    if (index === this.active) return;
    this.active = index;
    this.onChange();
  }

  // Whether one was added.
  addObject() {
    const { length } = this.state.objects;
    if (length >= MAX_OBJECTS) return false;
    this.edit((state) => {
      state.objects.push(newObject(state));
      this.active = state.objects.length - 1;
    }, "add_object");
    return this.state.objects.length > length;
  }

  rename(index, name) {
    this.edit((state) => {
      state.objects[index].name = name;
      delete state.objects[index].auto;
    }, "rename");
  }

  // Let the node name an object again.
  unname(index) {
    this.edit((state) => (state.objects[index].auto = true), "unname");
  }

  removeObject(index) {
    this.edit((state) => state.objects.splice(index, 1), "remove_object");
  }

  addPoint(kind, point) {
    this.edit((state) => {
      const points = this.#clickedObject(state)[kind];
      if (points.length < MAX_POINTS) points.push(point);
    }, kind === "positive" ? "point_on" : "point_outside");
  }

  setBox(box) {
    this.edit((state) => (this.#clickedObject(state).box = box), "box");
  }

  // The object that clicks go to; the first click makes one.
  #clickedObject(state) {
    if (!state.objects.length) state.objects.push(newObject(state));
    this.active = Math.max(this.active, 0);
    return this.activeObject;
  }
}
