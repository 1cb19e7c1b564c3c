// The panel in a window that covers the page, and back in the node.
import { element, keepEvents, setIcon } from "../page/elements.js";

export class LargeWindow {
  #dialog = null;
  isOpen = false;

  constructor(widget) {
    this.widget = widget;
  }

  toggle() {
    if (this.isOpen) this.#dialog.close();
    else this.#open();
  }

  // The node is removed.
  close() {
    this.#dialog?.close();
    this.#dialog?.remove();
  }

  #open() {
    const { panel, canvas } = this.widget;
    this.#dialog ??= this.#build();
    this.#dialog.append(panel.root);
    document.body.append(this.#dialog);
    this.isOpen = true;
    this.#dialog.showModal();
    setIcon(panel.large, "close", "Close the large window");
    canvas.element.focus();
    canvas.viewport.fit();
  }

  #build() {
    const { panel, canvas, root } = this.widget;
    const dialog = element("dialog", { className: "sounding-click-window sounding-click", ariaLabel: "Sound objects" });
    dialog.addEventListener("close", () => {
      this.isOpen = false;
      root.append(panel.root);
      dialog.remove();
      setIcon(panel.large, "large", "Large window");
      canvas.viewport.fit();
    });
    keepEvents(dialog);
    return dialog;
  }
}
