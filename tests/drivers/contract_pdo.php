<?php
// The contract with PDO; contract.py says what is printed. Variants: pdo prepares by name, pdo-emulated puts the
// values into the text itself, pdo-unprepared sends them beside a statement without name.
declare(strict_types=1);

[, $driver] = $argv;
$open = [];

function connect(): PDO
{
    global $driver, $open;
    $dsn = sprintf('pgsql:host=%s;port=%s;dbname=%s', getenv('PGHOST'), getenv('PGPORT'), getenv('PGDATABASE'));
    $open[] = new PDO($dsn, getenv('PGUSER'), getenv('PGPASSWORD'), [
        PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION,
        PDO::ATTR_EMULATE_PREPARES => $driver === 'pdo-emulated',
        PDO::PGSQL_ATTR_DISABLE_PREPARES => $driver === 'pdo-unprepared',
    ]);
    return end($open);
}

function say(string $step, mixed ...$results): void
{
    echo $step, ' ', str_replace("\n", ' ', implode(' ', $results)), "\n";
}

function value(PDO $pdo, string $sql, array $values = []): mixed
{
    $statement = $pdo->prepare($sql);
    $statement->execute($values);
    return $statement->fetchColumn();
}

function sqlstate(callable $work): string
{
    try {
        $work();
    } catch (PDOException $error) {
        return (string) $error->getCode();
    }
    return '00000';
}

function table(PDO $pdo): void
{
    $pdo->exec('DROP TABLE IF EXISTS contract; CREATE TABLE contract (id int, text text)');
}

function transactions(): void
{
    [$one, $other] = [connect(), connect()];
    table($other);
    $insert = $one->prepare('INSERT INTO contract VALUES (?, ?)');
    $one->beginTransaction();
    $insert->execute([1, 'kept']);
    $one->commit();
    say('commit', value($other, 'SELECT count(*) FROM contract'));
    $one->beginTransaction();
    $insert->execute([2, 'gone']);
    $one->rollBack();
    say('rollback', value($other, 'SELECT count(*) FROM contract WHERE id = 2'));
}

function statement_moves(): void
{
    global $driver;
    [$one, $held] = [connect(), [connect(), connect()]];
    $ask = $one->prepare("SELECT ?::int * 3, pg_backend_pid() /* $driver */");
    [$values, $pids] = [[], []];
    for ($number = 0; $number < 5; $number++) {
        $owners = [];
        foreach ($held as $holder) {
            $holder->beginTransaction();
            $owners[$holder->query('SELECT pg_backend_pid()')->fetchColumn()] = $holder;
        }
        // The backend it had stays taken, so the next must be the other.
        $free = array_values(array_diff(array_keys($owners), array_slice($pids, -1)))[0];
        $owners[$free]->rollBack();
        $ask->execute([$number]);
        [$values[], $pids[]] = $ask->fetch(PDO::FETCH_NUM);
        foreach ($held as $holder) {
            if ($holder->inTransaction()) {
                $holder->rollBack();
            }
        }
    }
    say('values', ...$values);
    $moves = 0;
    for ($i = 1; $i < count($pids); $i++) {
        $moves += $pids[$i] !== $pids[$i - 1] ? 1 : 0;
    }
    say('moves', $moves);
    $one->beginTransaction();
    $ask->execute([5]);
    $like = "'%/* $driver */'";
    say('prepared', $one->query("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE $like")->fetchColumn());
    $one->rollBack();
}

function big_results(): void
{
    $text = 'SELECT n::int, repeat(chr(97 + (n % 26)::int), 100) AS text FROM generate_series(1, 20000) n';
    $rows = connect()->query($text)->fetchAll(PDO::FETCH_NUM);
    [$sum, $length] = [0, 0];
    foreach ($rows as [$number, $found]) {
        $sum += $number;
        $length += $found === str_repeat(chr(97 + $number % 26), 100) ? 100 : 0;
    }
    say('big', count($rows), $sum, $length);
}

function copy_both_ways(): void
{
    $one = connect();
    table($one);
    $lines = array_map(fn (int $number) => "$number\tx\n", range(1, 1000));
    $one->pgsqlCopyFromArray('contract', $lines);
    $is_same = $one->pgsqlCopyToArray('contract') === $lines;
    say('copy', value($one, 'SELECT count(*) FROM contract'), $is_same ? 'true' : 'false');
    $state = sqlstate(fn () => $one->pgsqlCopyFromArray('contract', ["1\tx\n", "none\tx\n"]));
    say('copy_error', $state, value($one, 'SELECT count(*) FROM contract'));
}

function errors(): void
{
    $one = connect();
    $wrong = fn () => value($one, 'SELECT 1 / ?::int', [0]);
    say('error', sqlstate($wrong), value($one, 'SELECT 1'));
    $one->beginTransaction();
    $found = [sqlstate($wrong), sqlstate(fn () => value($one, 'SELECT 1'))];
    $one->rollBack();
    say('error_in_transaction', ...[...$found, value($one, 'SELECT 1')]);
}

/** PDO cannot cancel; a limit inside a transaction ends the query the same way. */
function cancel(): void
{
    $one = connect();
    $one->beginTransaction();
    $one->exec('SET LOCAL statement_timeout TO 20');
    $state = sqlstate(fn () => $one->query('SELECT pg_sleep(30)'));
    $one->rollBack();
    say('cancel', $state, value($one, 'SELECT 1'));
}

function notify(): void
{
    [$one, $other] = [connect(), connect()];
    $one->exec('LISTEN contract');
    $other->exec("NOTIFY contract, 'told'");
    $told = $one->pgsqlGetNotify(PDO::FETCH_NUM, 10000);
    say('notify', $told[0], $told[2]);
}

/** Columns of two executions before and two after the change. */
function widths(string $step, string $change): void
{
    global $driver;
    [$one, $other, $holder] = [connect(), connect(), connect()];
    $holder->beginTransaction();
    value($holder, 'SELECT 1'); // so that a pool of two has one backend left for the two others
    table($other);
    $other->exec("INSERT INTO contract VALUES (1, 'x')");
    $ask = $one->prepare("SELECT * FROM contract WHERE id = ? -- $driver $step");
    $found = [];
    for ($i = 0; $i < 4; $i++) {
        if ($i === 2) {
            $other->exec($change);
        }
        $state = sqlstate(function () use ($ask, &$found) {
            $ask->execute([1]);
            $found[] = count($ask->fetch(PDO::FETCH_NUM));
        });
        if ($state !== '00000') {
            $found[] = $state;
        }
    }
    $ask = null; // whatever it wrote where it should not is met here
    say($step, ...$found);
}

function changed(): void
{
    widths('changed', 'ALTER TABLE contract ALTER text TYPE varchar');
}

/** Without a prepared statement the driver crashes by itself when it meets a column more. */
function widened(): void
{
    global $driver;
    if ($driver === 'pdo') {
        widths('widened', 'ALTER TABLE contract ADD added int');
    }
}

foreach (['transactions', 'statement_moves', 'big_results', 'copy_both_ways', 'errors', 'cancel', 'notify', 'changed',
    'widened'] as $step) {
    try {
        $step();
    } catch (Throwable $error) {
        say($step, 'failed:', (string) $error);
    }
    $open = [];
}
