// The part of a passage to show before it is opened: where most of the words that were asked for stand.

/** At most about `length` characters of a text, white space as single spaces; cut ends have an ellipsis. */
export function excerpt(text: string, words: readonly string[], length: number): string {
  const plain = text
    .replace(/^#{1,6} /gm, "")
    .replace(/\s+/g, " ")
    .trim();
  if (plain.length <= length) return plain;
  const lower = plain.toLowerCase();
  const hits = words.flatMap((word) => places(lower, word).map((at) => ({ at, word })));
  let best = { start: 0, found: 0 };
  for (const { at } of [{ at: 0 }, ...hits]) {
    // A little of what comes before a word helps to read it.
    const start = Math.max(0, at - Math.floor(length / 6));
    const found = new Set(hits.filter((hit) => hit.at >= start && hit.at < start + length).map((hit) => hit.word)).size;
    if (found > best.found) best = { start, found };
  }
  const from = best.start === 0 ? 0 : plain.indexOf(" ", best.start) + 1;
  const cut = plain.length - from <= length ? plain.length : plain.lastIndexOf(" ", from + length);
  const to = cut > from ? cut : from + length;
  return `${from > 0 ? "… " : ""}${plain.slice(from, to)}${to < plain.length ? " …" : ""}`;
}

function places(text: string, word: string): number[] {
  const found: number[] = [];
  // More would not change which part is the best.
  for (let at = text.indexOf(word); at >= 0 && found.length < 50; at = text.indexOf(word, at + word.length)) found.push(at);
  return found;
}
