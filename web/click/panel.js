// The widget's elements around the canvas: toolbar, hints, status line, and files that are dropped or pasted.
import { button, element } from "../page/elements.js";

export class Panel {
  #maskError = null; // what the status line says of masks

  constructor(widget) {
    this.widget = widget;
    this.hint = element("div", { className: "sounding-click-hint" });
    this.status = element("div", { className: "sounding-click-status", role: "status" });
    const shown = [widget.canvas.element, this.hint, this.#problem()];
    const view = element("div", { className: "sounding-click-view" }, ...shown);
    const parts = [widget.study.root, this.#toolbar(), view, this.status];
    const left = element("div", { className: "sounding-click-left" }, ...parts);
    const right = element("div", { className: "sounding-click-right" }, widget.list.root, widget.preview.player.root);
    this.root = element("div", { className: "sounding-click-panel" }, left, right);
    this.root.setAttribute("title", ""); // otherwise the widget's tooltip hangs over the image
    this.#acceptFiles();
    // While something in here has the focus, the graph leaves the wheel to it.
    this.root.addEventListener("focusin", () => widget.root.setAttribute("data-capture-wheel", "true"));
    this.root.addEventListener("focusout", () => widget.root.removeAttribute("data-capture-wheel"));
  }

  // What the status line says.
  get said() {
    return this.status.textContent;
  }

  say(text) {
    this.status.classList.remove("error");
    this.status.textContent = text;
  }

  fail(text) {
    this.status.classList.add("error");
    this.status.textContent = text;
  }

  // What is wrong with masks, or null; while they are `busy` an old error stays.
  showMaskError(error, busy) {
    if (error) this.fail(error);
    else if (this.#maskError && !busy && this.said === this.#maskError) this.say("");
    if (!busy) this.#maskError = error;
  }

  sync() {
    const { editor, image } = this.widget;
    this.problem.hidden = !editor.problem;
    this.problem.firstChild.textContent = editor.problem ?? "";
    this.stretch.hidden = !editor.isReadable;
    this.hint.hidden = Boolean(image);
    this.undo.disabled = !editor.canUndo;
    this.redo.disabled = !editor.canRedo;
    this.clear.disabled = !editor.canClear;
  }

  #toolbar() {
    const { widget } = this;
    const { editor, canvas } = widget;
    const file = element("input", {
      type: "file",
      accept: "image/*",
      hidden: true,
      onchange: () => {
        widget.take(file.files[0]);
        file.value = "";
      },
    });
    this.undo = button("undo", "Undo (Ctrl+Z)", () => editor.undo());
    this.redo = button("redo", "Redo (Ctrl+Shift+Z)", () => editor.redo());
    this.clear = button("clear", "Remove all objects", () => editor.clear());
    this.large = button("large", "Large window", () => widget.window.toggle());
    const exclude = button("exclude", "Clicks exclude (or click right, or with Alt)", () => {
      canvas.excluding = !canvas.excluding;
      exclude.setAttribute("aria-pressed", String(canvas.excluding));
    });
    exclude.setAttribute("aria-pressed", "false");
    return element(
      "div",
      { className: "sounding-click-bar", role: "toolbar", ariaLabel: "Image" },
      button("upload", "Upload an image", () => file.click()),
      file,
      this.undo,
      this.redo,
      this.clear,
      exclude,
      element("span", { className: "sounding-click-space" }),
      button("minus", "Zoom out", () => canvas.viewport.zoomBy(1 / 1.4)),
      button("fit", "Whole image", () => canvas.viewport.fit()),
      button("plus", "Zoom in", () => canvas.viewport.zoomBy(1.4)),
      this.large,
    );
  }

  // What stands in the way of edits, with buttons that remove it.
  #problem() {
    const { editor } = this.widget;
    const clear = () => (editor.isReadable ? editor.removePoints() : editor.clear());
    this.stretch = element("button", { type: "button", onclick: () => editor.stretch() }, "Stretch them");
    this.problem = element(
      "div",
      { className: "sounding-click-problem", role: "alert", hidden: true },
      element("span"),
      element("span", {}, this.stretch, element("button", { type: "button", onclick: clear }, "Clear")),
    );
    return this.problem;
  }

  #acceptFiles() {
    const { root, widget } = this;
    const mine = (event) => {
      event.preventDefault();
      event.stopPropagation();
    };
    for (const kind of ["dragenter", "dragover"]) {
      root.addEventListener(kind, (event) => {
        if (![...(event.dataTransfer?.items ?? [])].some((item) => item.kind === "file")) return;
        mine(event);
        root.classList.add("drop");
      });
    }
    root.addEventListener("dragleave", () => root.classList.remove("drop"));
    root.addEventListener("drop", (event) => {
      root.classList.remove("drop");
      if (!event.dataTransfer?.files.length) return;
      mine(event);
      widget.take(event.dataTransfer.files[0]);
    });
    root.addEventListener("paste", (event) => {
      const file = [...(event.clipboardData?.files ?? [])][0];
      if (!file) return;
      mine(event);
      widget.take(file);
    });
  }
}
