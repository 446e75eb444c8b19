// Asking again and again, without pressing where one is asked to wait.

/** Calls `ask`, and again `every` milliseconds after it is done, or later where the error that it returns says so.
 * Returns how to end that. */
export function repeat(ask, every) {
  let timer;
  let isOver = false;
  const run = async () => {
    const error = await ask();
    if (!isOver) timer = setTimeout(run, Math.max(every, (error?.retryAfter ?? 0) * 1000));
  };
  void run();
  return () => {
    isOver = true;
    clearTimeout(timer);
  };
}
