// Undo and redo of the node's own steps. A step is a whole state as a string: these are small.

export class History {
  #past = [];
  #future = [];

  constructor(most = 200) {
    this.most = most;
  }

  get canUndo() {
    return this.#past.length > 0;
  }

  get canRedo() {
    return this.#future.length > 0;
  }

  push(before) {
    this.#past.push(before);
    if (this.#past.length > this.most) this.#past.shift();
    this.#future = [];
  }

  // The state before `now`, or null.
  undo(now) {
    if (!this.#past.length) return null;
    this.#future.push(now);
    return this.#past.pop();
  }

  redo(now) {
    if (!this.#future.length) return null;
    this.#past.push(now);
    return this.#future.pop();
  }

  clear() {
    this.#past = [];
    this.#future = [];
  }
}
