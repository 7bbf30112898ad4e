// Places in a text, given as bytes of its UTF-8 form: that is how the service counts.

/** Cuts a text at two byte offsets; null where they are not borders of characters in it. */
export function cutAtBytes(text: string, start: number, end: number): [string, string, string] | null {
  const bytes = new TextEncoder().encode(text);
  if (!(start >= 0 && start <= end && end <= bytes.length)) return null;
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  try {
    return [decoder.decode(bytes.subarray(0, start)), decoder.decode(bytes.subarray(start, end)), decoder.decode(bytes.subarray(end))];
  } catch {
    return null;
  }
}

/** Words too common to be worth a mark. */
const COMMON = new Set(
  "the and for are but not you all any can had her was one our out has him his how man who why did its let she too use what when where which with will would this that these those there their they them then than from have does been were about into your must much many more most some such only over also each per may".split(" "),
);

/** The words of a question that are worth a mark, in lower case. */
export function wordsOf(question: string): string[] {
  const words = question.toLowerCase().match(/[\p{L}\p{N}][\p{L}\p{N}\p{M}'’-]*/gu) ?? [];
  return [...new Set(words.filter((word) => word.length > 2 && !COMMON.has(word)))];
}

/** A text in pieces: the words, and other forms of them (a plural, a tense), are marked. */
export function markWords(text: string, words: string[]): { text: string; marked: boolean }[] {
  if (words.length === 0 || text === "") return [{ text, marked: false }];
  const stems = words.map((word) => (word.length > 5 ? word.replace(/(?:ies|es|s|ed|ing|ly)$/u, "") : word.replace(/s$/u, "")));
  const escaped = stems.filter((stem) => stem.length > 1).map((stem) => stem.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  if (escaped.length === 0) return [{ text, marked: false }];
  const pattern = new RegExp(`(?<![\\p{L}\\p{N}])(?:${escaped.join("|")})(?:ies|es|s|y|e|ed|ing|ly|['’]s)?(?![\\p{L}\\p{N}])`, "giu");
  const pieces: { text: string; marked: boolean }[] = [];
  let end = 0;
  for (const match of text.matchAll(pattern)) {
    if (match.index > end) pieces.push({ text: text.slice(end, match.index), marked: false });
    pieces.push({ text: match[0], marked: true });
    end = match.index + match[0].length;
  }
  if (end < text.length) pieces.push({ text: text.slice(end), marked: false });
  return pieces;
}
