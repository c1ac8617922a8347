"""Work at the same time."""
import threading


def run_threads(works):
    """Calls all of them at once; raises the first failure."""
    failures = []

    def guarded(work):
        try:
            work()
        except BaseException as error:  # a thread's failure is the test's
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
