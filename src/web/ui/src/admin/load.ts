// What a section asks the service for when it is opened, with its states: loading, there, refused.

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { Problem } from "../shared/api";

export interface Loaded<T> {
  value: T | null;
  problem: Problem | null;
  loading: boolean;
  reload: () => void;
  /** Changes what was loaded, without asking again. */
  set: (change: (value: T) => T) => void;
}

export function useLoad<T>(load: (signal: AbortSignal) => Promise<T>): Loaded<T> {
  const value = useSignal<T | null>(null);
  const problem = useSignal<Problem | null>(null);
  const loading = useSignal(true);
  const round = useSignal(0);
  useEffect(() => {
    const mine = new AbortController();
    loading.value = true;
    load(mine.signal).then(
      (loaded) => {
        if (mine.signal.aborted) return;
        value.value = loaded;
        problem.value = null;
        loading.value = false;
      },
      (error: unknown) => {
        if (mine.signal.aborted) return;
        problem.value = error instanceof Problem ? error : Problem.ofLostConnection(error);
        loading.value = false;
      },
    );
    return () => mine.abort();
  }, [round.value]);
  return {
    value: value.value,
    problem: problem.value,
    loading: loading.value,
    reload: () => round.value++,
    set: (change) => {
      if (value.value !== null) value.value = change(value.value);
    },
  };
}
