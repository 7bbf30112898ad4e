// Copying text. The browser's clipboard is closed to pages over plain HTTP, which a service inside a network may be; there
// the older way of a selected field works.

import { toast } from "./toast";
import { shared as t } from "./texts";

export async function copyText(text: string): Promise<boolean> {
  const done = (await viaClipboard(text)) || viaField(text);
  if (!done) toast(t.cannotCopy);
  return done;
}

async function viaClipboard(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

function viaField(text: string): boolean {
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "unseen";
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}
