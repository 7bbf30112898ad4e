// Follows documents until they are settled, by asking again and again: those that came first are asked for first, as the
// service works on them in that order, and never more than a few at once, however many were uploaded.

import { Problem } from "../shared/api";
import type { Document } from "./document";

export interface Followed {
  id: string;
  /** Takes what the service says, `null` where there is no such document. `true` says that it is settled. */
  tell: (document: Document | null) => boolean;
  /** Takes why it cannot be followed to the end. */
  lost: (problem: Problem) => void;
}

const AT_ONCE = 4;
/** Asked for in a round; the service works on about so many at once. */
const ROUND = 24;
const FIRST_PAUSE_MS = 150;
const LONGEST_PAUSE_MS = 1500;

export class Follower {
  private followed = new Set<Followed>();
  private going = false;

  constructor(
    private readonly find: (id: string) => Promise<Document | null>,
    private readonly pause: (ms: number) => Promise<void> = (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
  ) {}

  get size(): number {
    return this.followed.size;
  }

  follow(one: Followed): void {
    this.followed.add(one);
    if (!this.going) void this.go();
  }

  private async go(): Promise<void> {
    this.going = true;
    let pause = FIRST_PAUSE_MS;
    while (this.followed.size > 0) {
      await this.pause(pause);
      const before = this.followed.size;
      const round = [...this.followed].slice(0, ROUND);
      await Promise.all(Array.from({ length: AT_ONCE }, () => this.some(round)));
      pause = this.followed.size < before ? FIRST_PAUSE_MS : Math.min(pause * 1.5, LONGEST_PAUSE_MS);
    }
    this.going = false;
  }

  private async some(round: Followed[]): Promise<void> {
    for (let one = round.shift(); one; one = round.shift()) {
      try {
        if (one.tell(await this.find(one.id))) this.followed.delete(one);
      } catch (error) {
        // What may pass is asked again: the document is on its way whether it is watched or not.
        if (!(error instanceof Problem) || error.mayPass) continue;
        this.followed.delete(one);
        one.lost(error);
      }
    }
  }
}
