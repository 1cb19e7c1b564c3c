// Entry: nodes that play their sounds after a run: the mix and every track of mixers, every file of those that save.
import { app } from "../../scripts/app.js";
import { element } from "./page/elements.js";
import { MIX, SoundSet } from "./player/sound_cache.js";
import { Player } from "./player/player.js";
import { COLOURS } from "./click/state.js";

const NODES = ["SoundingMixTracks", "SoundingSoundscape", "SoundingSave", "SoundingSaveStems"];
const SOUNDS = "sounding_sounds"; // as in nodes/tracks.py: the mix, then each track
const SAVED = "sounding_saved"; // as in nodes/save.py: each file, with its name
const HEIGHT = 112;

app.registerExtension({
  name: "Sounding.Mix",
  nodeCreated(node) {
    if (!NODES.includes(node.comfyClass)) return;
    const status = element("div", { className: "sounding-click-status", role: "status" });
    status.textContent = "Run the workflow to hear the sounds here.";
    const fail = (text) => {
      status.hidden = false;
      status.textContent = text;
    };
    // The gains are in the files already: there is no list of objects to take them from.
    const player = new Player({ gainOf: () => undefined, onChange() {}, fail });
    const root = element("div", { className: "sounding-click sounding-mix" }, status, player.root);
    for (const kind of ["pointerdown", "pointermove", "dblclick", "keydown"]) {
      root.addEventListener(kind, (event) => event.stopPropagation());
    }
    node.addDOMWidget("player", "SOUNDING_PLAYER", root, {
      serialize: false,
      hideOnZoom: false,
      getMinHeight: () => HEIGHT,
      getMaxHeight: () => HEIGHT,
      getValue: () => "",
      setValue: () => {},
    }).serialize = false;
    const { onExecuted, onRemoved } = node;
    node.onExecuted = function (output) {
      onExecuted?.apply(this, arguments);
      const [mix, ...tracks] = output?.[SOUNDS] ?? [null, ...(output?.[SAVED] ?? [])];
      if (!tracks.length) return;
      const objects = tracks.map(({ name }, place) => {
        const colour = COLOURS[place % COLOURS.length];
        return { place, name: name || `${mix ? "track" : "sound"} ${place + 1}`, colour, gain_db: 0 };
      });
      const set = new SoundSet({ mixable: Boolean(mix) });
      set.take(objects, { gained: tracks, mix: mix && [mix] });
      status.hidden = true;
      player.show(set, mix && tracks.length > 1 ? MIX : 0).catch((error) => fail(error.message));
    };
    node.onRemoved = function () {
      player.close();
      return onRemoved?.apply(this, arguments);
    };
  },
});
