// The list of objects beside the image: colour, name, on or off, gain, take, play, remove.
import { button, element, setIcon } from "../page/elements.js";
import { MIX } from "../player/sound_cache.js";
import { describeNames, foreignTo } from "./names.js";
import { usesTakes } from "./sound_graph.js";
import { cleanName, clicked, hasPlace, GAINS, MAX_OBJECTS, MAX_TAKE } from "./state.js";

export class ObjectList {
  #rows = [];

  constructor(widget) {
    this.widget = widget;
    this.rows = element("ul", { className: "sounding-click-rows", ariaLabel: "Objects" });
    this.add = element(
      "button",
      { type: "button", className: "sounding-click-add", onclick: () => this.#addObject() },
      "+ Object",
    );
    this.add.title = "Add an object; then click on it";
    const hearMix = () => widget.preview.hear(MIX);
    this.mix = element("button", { type: "button", className: "sounding-click-mix", onclick: hearMix });
    const foot = element("div", { className: "sounding-click-foot" }, this.add, this.mix);
    this.root = element("div", { className: "sounding-click-list" }, this.rows, foot);
  }

  sync() {
    const { objects } = this.widget.editor.state;
    while (this.#rows.length > objects.length) this.#rows.pop().root.remove();
    while (this.#rows.length < objects.length) this.#append(this.#rows.length);
    objects.forEach((object, i) => this.#fill(this.#rows[i], object, i));
    this.add.disabled = objects.length >= MAX_OBJECTS;
    const audible = objects.filter((object) => object.on && hasPlace(object));
    this.mix.hidden = audible.length < 2;
    this.#showPlay(this.mix, MIX, "the mix", Boolean(this.widget.reference));
  }

  #addObject() {
    const { editor, canvas } = this.widget;
    if (!editor.addObject()) return;
    canvas.draw();
    const { name } = this.#rows[editor.active]; // to be typed over
    name.focus();
    name.select();
  }

  #append(index) {
    const { editor, preview } = this.widget;
    const edit = (change, act) => editor.edit((state) => change(state.objects[index]), act);
    const colour = element("input", {
      type: "color",
      title: "Colour",
      onchange: () => edit((object) => (object.colour = colour.value), "colour"),
    });
    const name = element("input", {
      type: "text",
      className: "sounding-click-name",
      maxLength: 100,
      spellcheck: false,
      onfocus: () => editor.select(index),
      onchange: () => {
        const clean = cleanName(name.value);
        if (clean) editor.rename(index, clean);
        else editor.unname(index);
        this.sync();
      },
      onblur: () => this.sync(), // the node may have named it meanwhile
      onkeydown: (event) => {
        if (event.key === "Enter") name.blur();
      },
    });
    const on = button("eye", "", () => edit((object) => (object.on = !object.on), "switch"));
    const gain = element("input", {
      type: "number",
      className: "sounding-click-gain",
      min: GAINS[0],
      max: GAINS[1],
      step: 1,
      title: "Gain in dB",
      onchange: () => {
        const value = Math.min(GAINS[1], Math.max(GAINS[0], Math.round(gain.valueAsNumber * 10) / 10));
        if (Number.isFinite(value)) edit((object) => (object.gain_db = value), "gain");
        this.sync();
      },
    });
    // Which variant of its sound is picked: a new number is heard at once, one that was heard before without a run.
    const take = element("input", {
      type: "number",
      className: "sounding-click-gain sounding-click-take",
      min: 0,
      max: MAX_TAKE,
      step: 1,
      onchange: async () => {
        const value = Math.min(MAX_TAKE, Math.max(0, Math.round(take.valueAsNumber)));
        if (Number.isFinite(value)) edit((object) => (object.take = value), "take");
        this.sync();
        if (!Number.isFinite(value) || play.disabled) return;
        if (preview.status(index).is) await preview.hear(index); // stops what it was
        await preview.hear(index);
      },
    });
    const percent = element("span", { className: "sounding-click-percent" });
    const mark = element("span", { className: "sounding-click-unsure", textContent: "?", hidden: true });
    mark.setAttribute("role", "img");
    const play = button("play", "", () => preview.hear(index), { className: "sounding-click-play" });
    const remove = button("close", "", () => editor.removeObject(index));
    const decibels = element("label", { className: "sounding-click-db" }, gain, "dB");
    const cells = [colour, name, percent, mark, on, decibels, take, play, remove];
    const root = element("li", { onpointerdown: () => editor.select(index) }, ...cells);
    this.rows.append(root);
    this.#rows.push({ root, colour, name, percent, mark, on, gain, take, play, remove });
  }

  #fill(row, object, index) {
    const { editor, preview, reference } = this.widget;
    row.root.classList.toggle("active", index === editor.active);
    row.root.classList.toggle("off", !object.on);
    row.root.setAttribute("aria-current", String(index === editor.active));
    row.root.style.setProperty("--colour", object.colour);
    row.colour.value = object.colour;
    if (document.activeElement !== row.name) row.name.value = object.name;
    if (document.activeElement !== row.gain) row.gain.value = object.gain_db;
    if (document.activeElement !== row.take) row.take.value = object.take ?? 0;
    row.take.hidden = !usesTakes(this.widget.node);
    row.take.title = "Take: which variant of the sound is picked; 0 is the seed's own";
    row.take.setAttribute("aria-label", `Take of ${object.name}`);
    row.name.setAttribute("aria-label", `Name of object ${index + 1}`);
    row.colour.setAttribute("aria-label", `Colour of ${object.name}`);
    row.gain.setAttribute("aria-label", `Gain of ${object.name} in decibels`);
    row.on.setAttribute("aria-pressed", String(object.on));
    setIcon(row.on, object.on ? "eye" : "hidden", `${object.on ? "Switch off" : "Switch on"} ${object.name}`);
    setIcon(row.remove, "close", `Remove ${object.name}`);
    this.#showPlay(row.play, index, object.name, hasPlace(object) && Boolean(reference));
    const named = object.auto ? this.widget.maskOf(object)?.named : null;
    row.name.title = describeNames(named);
    row.percent.textContent = named?.known && named.name === object.name ? `${Math.round(100 * named.probability)} %` : "";
    row.percent.title = row.name.title;
    const { sure = true, sureness } = preview.surenessOf(object) ?? {};
    const doubt =
      `The model is ${Math.round(100 * sureness)} % sure that it knows this: it may sound like something else. ` +
      "Select the object more clearly, or use a model that knows it.";
    row.mark.title = [foreignTo(named), sure ? "" : doubt].filter(Boolean).join("\n");
    row.mark.hidden = !row.mark.title;
    row.mark.setAttribute("aria-label", row.mark.title);
    row.root.title = clicked(object) ? "" : "Click on this object in the image";
  }

  // A button that makes and plays a sound, as its state has it.
  #showPlay(made, what, name, ready) {
    const { is, share } = this.widget.preview.status(what);
    const label = { playing: `Stop ${name}`, waiting: `Stop making ${name}` }[is] ?? `Hear ${name}`;
    setIcon(made, is ? "stop" : "play", label);
    made.classList.toggle("busy", is === "waiting");
    made.style.setProperty("--share", share ?? 0);
    made.disabled = !is && !ready;
  }
}
