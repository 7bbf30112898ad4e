// The charts of the last hour.

import { admin } from "../shared/texts-admin";
import { ProblemNote } from "../shared/problem";
import { ChartCard, span } from "./chart";
import { CHARTS } from "./charts";
import { historyProblem, samples, series } from "./live";

const t = admin.charts;

export function Overview() {
  return (
    <>
      <div class="section-bar">
        <History />
        <span class="space" />
        <div class="segments" role="group" aria-label={t.span}>
          {Object.entries(t.spans).map(([minutes, text]) => (
            <button key={minutes} type="button" class="button" aria-pressed={span.value === Number(minutes)} onClick={() => (span.value = Number(minutes))}>
              {text}
            </button>
          ))}
        </div>
      </div>
      <div class="charts">
        {CHARTS.map((chart) => (
          <ChartCard key={chart.id} chart={chart} />
        ))}
      </div>
    </>
  );
}

function History() {
  void samples.value;
  if (historyProblem.value) return <ProblemNote problem={{ ...historyProblem.value, title: t.unavailable, detail: historyProblem.value.detail, retryAfter: null }} />;
  return series.length === 0 ? <p class="muted">{t.empty}</p> : null;
}
