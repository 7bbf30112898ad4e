// A problem in words: its title, what to do, and a way to try again. Counts the seconds down that the service asks for.

import type { ComponentChildren } from "preact";
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import type { Problem } from "./api";
import { shared as t } from "./texts";

interface ProblemNoteProps {
  problem: Pick<Problem, "title" | "detail" | "retryAfter">;
  /** Shows a button to try again; it waits for as long as the service asks. */
  onRetry?: (() => void) | undefined;
  children?: ComponentChildren;
}

export function ProblemNote({ problem, onRetry, children }: ProblemNoteProps) {
  const left = useSignal(problem.retryAfter ?? 0);
  useEffect(() => {
    left.value = problem.retryAfter ?? 0;
    const timer = setInterval(() => {
      if (left.value > 0) left.value--;
    }, 1000);
    return () => clearInterval(timer);
  }, [problem]);
  return (
    <div class="note bad problem" role="alert">
      <div class="text">
        <strong>{problem.title || t.problem.unknown}</strong>
        {problem.detail && <p>{problem.detail}</p>}
        {left.value > 0 && <p aria-live="off">{t.problem.again(left.value)}</p>}
      </div>
      {onRetry && (
        <button type="button" class="button" disabled={left.value > 0} onClick={onRetry}>
          {t.retry}
        </button>
      )}
      {children}
    </div>
  );
}
