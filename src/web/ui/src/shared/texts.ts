// Every text that the pages show to people, in one place. English first; another language is another file like this.
// Those of the documents and the admin page stand in files beside it, which the chat does not load.

import { number, plural } from "./format";

export const shared = {
  close: "Close",
  cancel: "Cancel",
  retry: "Try again",
  loading: "Loading…",
  skip: "Skip to the content",
  pages: "Pages",
  chat: "Chat",
  documents: "Documents",
  admin: "Admin",
  copy: "Copy",
  copied: "Copied",
  cannotCopy: "The browser did not allow the copy.",

  health: {
    label: (state: string) => `Health: ${state}`,
    ready: "Ready",
    degraded: "Degraded",
    unavailable: "Not ready",
    unreachable: "Not reachable",
    readyText: "Every part of the service works.",
    degradedText: "The service works, with parts missing:",
    unavailableText: "The service cannot work now:",
    unreachableText: "The service does not answer. It may be starting, or the connection was lost.",
    checking: "Checking…",
  },

  theme: { label: "Theme", system: "As the system", light: "Light", dark: "Dark" },

  session: {
    signIn: "Sign in",
    signOut: "Sign out",
    account: (name: string) => `Signed in as ${name}`,
    scopes: (scopes: string[]) => `May: ${scopes.join(", ")}`,
    groups: (groups: string[]) => `Groups: ${groups.join(", ")}`,
    everything: "Sees all documents",
    text: "Enter the key that you were given. It is sent to this service only.",
    key: "Key",
    keep: "Keep me signed in on this device",
    wrong: "The service does not know this key, or it has expired or was revoked.",
    failed: "The key could not be checked: the service does not answer.",
    checking: "Checking…",
  },

  problem: {
    unknown: "Something went wrong",
    /** With the wait that the service asks for. */
    again: (seconds: number) => `Try again in ${plural(seconds, "second", "seconds")}.`,
  },

  passage: {
    page: (page: number) => `page ${page}`,
    loading: "Loading the document…",
    changed: "The document has changed since the answer. The passage is no longer where it was.",
    gone: "The document is no longer there.",
    noText: "No text of this document is kept.",
    forbidden: "You may not read this document.",
    original: "Open the original",
    cut: (characters: number) => `Only ${number(characters)} characters around the passage are shown.`,
    text: "Text of the document",
    toPassage: "To the passage",
    highlighted: "The passage of the answer:",
  },
};

export const chat = {};
