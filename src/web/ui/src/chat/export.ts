// Conversations as files: Markdown to read, JSON to work with.

import { dateTime } from "../shared/format";
import { chat as t } from "../shared/texts";
import type { Conversation, Turn } from "./types";

/** A conversation as Markdown, each answer with its sources. */
export function asMarkdown({ title, createdMs, turns }: Conversation): string {
  const head = `# ${title}\n\n${t.export.from(dateTime(createdMs))}\n`;
  return [head, ...turns.map(turnAsMarkdown)].join("\n");
}

function turnAsMarkdown({ question, answer }: Turn): string {
  const quoted = question.split("\n").map((line) => `> ${line}`).join("\n");
  const sources = answer.sources.map(({ n, title, document_id, section, page }) => {
    const place = [document_id, ...section.slice(1), ...(page === null ? [] : [t.export.page(page)])].join(", ");
    return `${n}. ${title} (${place})`;
  });
  const said = answer.text || answer.trouble?.title || t.export.nothing;
  return `${quoted}\n\n${said}\n${sources.length > 0 ? `\n${t.export.sources}:\n\n${sources.join("\n")}\n` : ""}`;
}

/** Hands a file to the browser to save. */
export function save(name: string, type: string, content: string): void {
  const address = URL.createObjectURL(new Blob([content], { type }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  // Some browsers read it only after the click has returned.
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** A name for a file, of a title. */
export const fileName = (title: string): string => title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60).toLowerCase() || "conversation";
