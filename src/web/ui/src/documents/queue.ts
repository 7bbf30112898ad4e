// Runs many tasks, a few at a time, in order. Each can be taken out again: before it began, or in its midst.

export type Task = (signal: AbortSignal) => Promise<void>;

interface Entry {
  task: Task;
  abort: AbortController;
}

export class Queue {
  private waiting = new Map<number, Entry>();
  private running = new Map<number, Entry>();

  constructor(private readonly at_once: number) {}

  /** Adds a task under a key that no other has. */
  add(key: number, task: Task): void {
    this.waiting.set(key, { task, abort: new AbortController() });
    this.go();
  }

  /** Takes a task out; one that runs hears it by its signal. */
  cancel(key: number): void {
    this.waiting.delete(key);
    this.running.get(key)?.abort.abort();
  }

  /** Tasks that wait or run. */
  get size(): number {
    return this.waiting.size + this.running.size;
  }

  private go(): void {
    for (const [key, entry] of this.waiting) {
      if (this.running.size >= this.at_once) return;
      this.waiting.delete(key);
      this.running.set(key, entry);
      const over = () => {
        this.running.delete(key);
        this.go();
      };
      // A task tells of its failures itself; the queue goes on either way.
      entry.task(entry.abort.signal).then(over, over);
    }
  }
}
