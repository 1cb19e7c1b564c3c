// Entry: the node "Sound Objects (click)", where a widget with the image replaces the text field of `state`.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { isImageInput, SHOWN } from "./click/image.js";
import { ClickWidget } from "./click/widget.js";

const TYPE = "SOUNDING_CLICK";
const EVENT = "sounding.click.picture"; // as in nodes/click/node.py
const SIZE = [460, 640];

app.registerExtension({
  name: "Sounding.Click",
  getCustomWidgets() {
    return {
      [TYPE](node, name, spec) {
        const click = new ClickWidget(node);
        const widget = node.addDOMWidget(name, TYPE, click.root, {
          getValue: () => click.value,
          setValue: (value) => (click.value = value),
          getMinHeight: () => 420,
          hideOnZoom: false,
          margin: 6,
        });
        widget.value = spec?.[1]?.default ?? "";
        node.soundingClick = click;
        return { widget, minWidth: SIZE[0], minHeight: SIZE[1] };
      },
    };
  },
  nodeCreated(node) {
    const click = node.soundingClick;
    if (!click) return;
    const { onExecuted, onConnectionsChange, onRemoved } = node;
    node.onExecuted = function (output) {
      onExecuted?.apply(this, arguments);
      show(node, output);
    };
    node.onConnectionsChange = function (side, slot) {
      const result = onConnectionsChange?.apply(this, arguments);
      // A run's image belongs to what was connected then. Outputs, and a graph that is being loaded, change nothing.
      const other = side === LiteGraph.INPUT && this.inputs[slot] && isImageInput(this.inputs[slot]);
      if (other && !app.configuringGraph) node.soundingShown = false;
      queueMicrotask(() => {
        click.look();
        click.list.sync(); // takes can be picked where something takes them
      });
      return result;
    };
    node.onRemoved = function () {
      click.remove();
      return onRemoved?.apply(this, arguments);
    };
    node.setSize?.([Math.max(node.size[0], SIZE[0]), Math.max(node.size[1], SIZE[1])]);
    click.look();
  },
  setup() {
    // A run that failed because nothing is clicked yet still sends the image to click on.
    api.addEventListener(EVENT, ({ detail }) => {
      for (const graph of [app.graph, ...(app.graph?.subgraphs?.values?.() ?? [])]) {
        const id = String(detail.node).split(":").at(-1);
        const node = graph?.nodes?.find((each) => String(each.id) === id && each.soundingClick);
        if (node) show(node, detail.output);
      }
    });
  },
});

function show(node, output) {
  const shown = output?.[SHOWN]?.[0];
  if (!shown) return;
  node.soundingShown = shown;
  node.soundingClick.look();
}
