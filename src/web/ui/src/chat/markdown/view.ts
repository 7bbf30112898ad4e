// Shows a growing Markdown text in an element: at most once a frame, and only its last block again and again.

import { BlockSplitter, type Block } from "./blocks";
import { morph } from "./morph";
import { hasCode, renderBlock, type Highlighter, type Rendering } from "./render";

/** How much of the time drawing may take: after one that took 10 ms, the next waits for 30 ms. */
const SHARE = 0.25;

let highlighter: Highlighter | null = null;
let loading: Promise<void> | null = null;
const loadHighlighter = (): Promise<void> =>
  (loading ??= import("./highlight").then(
    (module) => void (highlighter = module.highlight),
    () => void (loading = null), // the connection is lost: code stays plain, and the next one tries again
  ));

export class MarkdownView {
  readonly #target: HTMLElement;
  #splitter = new BlockSplitter();
  /** How many blocks on the page are finished. */
  #drawn = 0;
  #text = "";
  #ended = false;
  #sources: ReadonlyMap<number, string> = new Map();
  #frame: number | null = null;
  #notBefore = 0;
  /** Called after each drawing. */
  onDrawn: (() => void) | null = null;

  constructor(target: HTMLElement) {
    this.#target = target;
  }

  /** Takes the text as it is now. It is drawn with the next frame, or at once where it is complete. */
  update(text: string, ended: boolean, sources: ReadonlyMap<number, string>): void {
    const same = text === this.#text && ended === this.#ended && sources === this.#sources;
    if (same) return;
    if (sources !== this.#sources) this.#reset();
    this.#text = text;
    this.#ended = ended;
    this.#sources = sources;
    if (ended) this.#draw();
    else this.#frame ??= requestAnimationFrame(this.#whenDue);
  }

  /** Ends it: nothing is drawn any more. */
  close(): void {
    if (this.#frame !== null) cancelAnimationFrame(this.#frame);
    this.#frame = null;
    this.onDrawn = null;
  }

  readonly #whenDue = (now: number): void => {
    if (now < this.#notBefore) this.#frame = requestAnimationFrame(this.#whenDue);
    else this.#draw();
  };

  #reset(): void {
    this.#splitter = new BlockSplitter();
    this.#drawn = 0;
  }

  #draw(): void {
    if (this.#frame !== null) cancelAnimationFrame(this.#frame);
    this.#frame = null;
    const began = performance.now();
    const rest = this.#splitter.update(this.#text, this.#ended);
    const finished = this.#splitter.finished;
    if (this.#drawn > finished.length) this.#drawn = 0;
    let code = false;
    const show = (block: Block, at: number) => {
      code ||= hasCode(block);
      this.#place(renderBlock(block, this.#rendering()), at);
    };
    for (; this.#drawn < finished.length; this.#drawn++) show(finished[this.#drawn]!, this.#drawn);
    rest.forEach((block, at) => show(block, this.#drawn + at));
    while (this.#target.children.length > this.#drawn + rest.length) this.#target.lastElementChild!.remove();
    const ended = performance.now();
    this.#notBefore = ended + (ended - began) * (1 / SHARE - 1);
    this.onDrawn?.();
    if (code && highlighter === null) {
      void loadHighlighter().then(() => {
        if (highlighter === null || !this.#target.isConnected) return;
        this.#reset();
        this.#draw();
      });
    }
  }

  #rendering(): Rendering {
    return { sources: this.#sources, highlight: highlighter };
  }

  /** A block has an element of its own, which stays the same one while the block grows. */
  #place(content: DocumentFragment, at: number): void {
    let box = this.#target.children[at];
    if (box === undefined) {
      box = document.createElement("div");
      box.className = "block";
      this.#target.append(box);
    }
    morph(box, content);
  }
}
