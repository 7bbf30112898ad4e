import { expect, it } from "vitest";
import { Queue } from "./queue";

/** A task that ends when it is told to, and what became of it. */
function slow() {
  const task = { began: false, aborted: false, end: () => {}, fail: () => {} };
  const run = (signal: AbortSignal) =>
    new Promise<void>((resolve, reject) => {
      task.began = true;
      task.end = resolve;
      task.fail = () => reject(new Error("failed"));
      signal.addEventListener("abort", () => {
        task.aborted = true;
        reject(new Error("aborted"));
      });
    });
  return { task, run };
}

const settled = () => new Promise((resolve) => setTimeout(resolve));

it("runs no more than it may at once, in order", async () => {
  const queue = new Queue(2);
  const tasks = [slow(), slow(), slow(), slow()];
  tasks.forEach(({ run }, key) => queue.add(key, run));
  expect(tasks.map(({ task }) => task.began)).toEqual([true, true, false, false]);
  tasks[1]?.task.end();
  await settled();
  expect(tasks.map(({ task }) => task.began)).toEqual([true, true, true, false]);
});

it("goes on after a task that fails", async () => {
  const queue = new Queue(1);
  const [first, second] = [slow(), slow()];
  queue.add(1, first.run);
  queue.add(2, second.run);
  first.task.fail();
  await settled();
  expect(second.task.began).toBe(true);
  expect(queue.size).toBe(1);
});

it("a task that waits is taken out and never begins", async () => {
  const queue = new Queue(1);
  const [first, second, third] = [slow(), slow(), slow()];
  [first, second, third].forEach(({ run }, key) => queue.add(key, run));
  queue.cancel(1);
  first.task.end();
  await settled();
  expect([second.task.began, third.task.began]).toEqual([false, true]);
});

it("a task that runs hears that it is not wanted, and makes room", async () => {
  const queue = new Queue(1);
  const [first, second] = [slow(), slow()];
  queue.add(1, first.run);
  queue.add(2, second.run);
  queue.cancel(1);
  await settled();
  expect([first.task.aborted, second.task.began]).toEqual([true, true]);
});

it("runs ten thousand tasks to the end", async () => {
  const queue = new Queue(4);
  let done = 0;
  for (let key = 0; key < 10_000; key++) queue.add(key, async () => void done++);
  while (queue.size > 0) await settled();
  expect(done).toBe(10_000);
});
