// The order of the pack's templates on the page. The host lists them in the order of its file system.
const ORDER = [
  "click_and_hear",
  "one_object",
  "two_objects_tracks_and_mix",
  "soundscape",
  "points_to_mask",
  "brush_mask",
  "text_grounded",
  "batch_of_seeds",
  "generated_picture",
  "texture_change",
  "vary_a_sound",
];

// {folder of a pack: names}, with ours in the order in which to try them; other packs' as they come.
export function inOrder(templates) {
  return Object.fromEntries(
    Object.entries(templates).map(([pack, names]) => {
      return [pack, names.includes(ORDER[0]) ? names.toSorted(byPlace) : names];
    }),
  );
}

function byPlace(a, b) {
  const place = (name) => (ORDER.includes(name) ? ORDER.indexOf(name) : ORDER.length);
  return place(a) - place(b) || a.localeCompare(b);
}
