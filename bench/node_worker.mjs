// Node's worker_threads, for test_processes.py: `node node_worker.mjs FIGURE COUNT [BYTES]` prints nanoseconds a message.

import { once } from "node:events";
import { setTimeout } from "node:timers/promises";
import { Worker, isMainThread, parentPort, workerData } from "node:worker_threads";

const FIRST = 1000;
const PAGE = 4096;

function serve({ figure, count }) {
  let received = 0;
  let total = 0;
  parentPort.on("message", (message) => {
    if (figure === "round-trip" || figure === "paused") {
      parentPort.postMessage(message);
      return;
    }
    if (figure === "arrays") {
      for (let i = 0; i < message.length; i += PAGE) total += message[i];
      message[0] = 255;
    }
    if (++received === count) {
      parentPort.postMessage(total);
      received = total = 0;
    }
  });
  parentPort.postMessage("up");
}

async function measure(worker, figure, count, bytes) {
  if (figure === "round-trip") {
    const begin = process.hrtime.bigint();
    await new Promise((resolve) => {
      let left = count;
      worker.on("message", function answered(message) {
        if (--left) {
          worker.postMessage(message + 1);
        } else {
          worker.off("message", answered);
          resolve();
        }
      });
      worker.postMessage(FIRST);
    });
    return process.hrtime.bigint() - begin;
  }
  if (figure === "paused") {
    let elapsed = 0n;
    for (let i = 0; i < count; i++) {
      await setTimeout(1);
      const answered = once(worker, "message");
      const begin = process.hrtime.bigint();
      worker.postMessage(FIRST + i);
      await answered;
      elapsed += process.hrtime.bigint() - begin;
    }
    return elapsed;
  }
  const payload = new Uint8Array(bytes).fill(1);
  const answered = once(worker, "message");
  const begin = process.hrtime.bigint();
  for (let i = 0; i < count; i++) {
    if (figure === "ints") {
      worker.postMessage(FIRST + i);
    } else {
      payload[0] = i;
      worker.postMessage(payload);
    }
  }
  await answered;
  return process.hrtime.bigint() - begin;
}

if (isMainThread) {
  const [figure, ...numbers] = process.argv.slice(2);
  const [count, bytes = 0] = numbers.map(Number);
  const worker = new Worker(new URL(import.meta.url), { workerData: { figure, count } });
  await once(worker, "message");
  await measure(worker, figure, count, bytes);
  console.log(Number(await measure(worker, figure, count, bytes)) / count);
  await worker.terminate();
} else {
  serve(workerData);
}
