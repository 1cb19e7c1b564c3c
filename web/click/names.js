// What the server has found an object to be, in words: {name, known, probability, top, sounds_as, nearest, vocabulary}, as
// nodes/click/names.py has it.

const percent = (share) => `${Math.round(100 * share)} %`;

// The name of an object, "" where nobody can tell, null where nothing is known yet.
export const foundName = (named) => (named ? (named.known ? named.name : "") : null);

// How sure the name is, for the status line.
export function sureOf(named) {
  if (!named) return "";
  if (named.known) return ` (${percent(named.probability)} sure)`;
  return ` (perhaps ${named.top.slice(0, 2).map(([name]) => name).join(" or ")})`;
}

// That the sounding model does not know an object, or "".
export function foreignTo(named) {
  if (!named?.known || !named.vocabulary || named.sounds_as) return "";
  const { checkpoint, names } = named.vocabulary;
  const model = checkpoint.endsWith(".safetensors") ? checkpoint.slice(0, -".safetensors".length) : "the starter";
  const nearest = named.nearest?.length ? `; nearest: ${named.nearest.join(", ")}` : "";
  return `${named.name} (${percent(named.probability)} sure): not among ${model}'s ${names}${nearest}`;
}

// What stands behind a name, for whoever hovers over it.
export function describeNames(named) {
  if (!named) return "Name; empty it to have the node name the object";
  const likely = named.top.map(([name, share]) => `${name} ${percent(share)}`).join(", ");
  return `The node finds: ${likely}. Type another name to keep that.`;
}
