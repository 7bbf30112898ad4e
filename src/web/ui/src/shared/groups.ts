// Groups as people type them.

/** Groups separated by commas or white space, each once. */
export function groupsOf(text: string): string[] {
  return [...new Set(text.split(/[\s,;]+/).filter((group) => group !== ""))];
}
