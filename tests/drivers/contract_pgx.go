// The contract with pgx v4; contract.py says what is printed. Variants: pgx with its cache of prepared statements,
// pgx-describe with its cache of descriptions, pgx-uncached, and pgx-simple with the simple protocol.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgconn/stmtcache"
	"github.com/jackc/pgx/v4"
)

var (
	driver    = os.Args[1]
	ctx       = context.Background()
	statement = "SELECT $1::int * 3, pg_backend_pid() /* " + driver + " */"
	sleep     = "SELECT pg_sleep(30) /* " + driver + " */"
	open      []*pgx.Conn
)

func connect() *pgx.Conn {
	config := must(pgx.ParseConfig(""))
	switch driver {
	case "pgx-describe":
		config.BuildStatementCache = func(conn *pgconn.PgConn) stmtcache.Cache {
			return stmtcache.New(conn, stmtcache.ModeDescribe, 512)
		}
	case "pgx-uncached":
		config.BuildStatementCache = nil
	case "pgx-simple":
		config.BuildStatementCache = nil
		config.PreferSimpleProtocol = true
	}
	conn := must(pgx.ConnectConfig(ctx, config))
	open = append(open, conn)
	return conn
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func say(step string, results ...any) {
	line := strings.TrimSuffix(fmt.Sprintln(append([]any{step}, results...)...), "\n")
	fmt.Println(strings.ReplaceAll(line, "\n", " "))
}

func sqlstate(err error) string {
	var told *pgconn.PgError
	if errors.As(err, &told) {
		return told.Code
	}
	if err != nil {
		return fmt.Sprintf("%T", err)
	}
	return "00000"
}

type querier interface {
	Exec(context.Context, string, ...any) (pgconn.CommandTag, error)
	QueryRow(context.Context, string, ...any) pgx.Row
}

func value(from querier, query string, values ...any) (found int) {
	check(from.QueryRow(ctx, query, values...).Scan(&found))
	return
}

func execute(on querier, query string, values ...any) {
	must(on.Exec(ctx, query, values...))
}

func table(on querier) {
	execute(on, "DROP TABLE IF EXISTS contract")
	execute(on, "CREATE TABLE contract (id int, text text)")
}

func transactions() {
	one, other := connect(), connect()
	table(other)
	tx := must(one.Begin(ctx))
	execute(tx, "INSERT INTO contract VALUES ($1, $2)", 1, "kept")
	check(tx.Commit(ctx))
	say("commit", value(other, "SELECT count(*) FROM contract"))
	tx = must(one.Begin(ctx))
	execute(tx, "INSERT INTO contract VALUES ($1, $2)", 2, "gone")
	check(tx.Rollback(ctx))
	say("rollback", value(other, "SELECT count(*) FROM contract WHERE id = 2"))
	tx = must(one.Begin(ctx))
	inner := must(tx.Begin(ctx))
	execute(inner, "INSERT INTO contract VALUES ($1, $2)", 3, "gone")
	_, err := inner.Exec(ctx, "SELECT 1 / $1::int", 0)
	check(inner.Rollback(ctx))
	execute(tx, "INSERT INTO contract VALUES ($1, $2)", 4, "kept")
	check(tx.Commit(ctx))
	say("savepoint", sqlstate(err), value(other, "SELECT min(id) * 10 + max(id) FROM contract"))
}

// Does `work` while the backend `unwanted` is taken, so that whoever had it gets the other of two.
func whileTaken(held []*pgx.Conn, unwanted int, work func()) {
	var holders []pgx.Tx
	var pids []int
	for _, holder := range held {
		tx := must(holder.Begin(ctx))
		holders, pids = append(holders, tx), append(pids, value(tx, "SELECT pg_backend_pid()"))
	}
	free, kept := holders[0], holders[1]
	if pids[0] == unwanted {
		free, kept = kept, free
	}
	check(free.Rollback(ctx))
	work()
	check(kept.Rollback(ctx))
}

func statementMoves() {
	one, held, last, moves := connect(), []*pgx.Conn{connect(), connect()}, 0, 0
	var values []any
	for number := 0; number < 5; number++ {
		whileTaken(held, last, func() {
			var found, pid int
			check(one.QueryRow(ctx, statement, number).Scan(&found, &pid))
			if last != 0 && pid != last {
				moves++
			}
			values, last = append(values, found), pid
		})
	}
	say("values", values...)
	say("moves", moves)
	tx := must(one.Begin(ctx))
	execute(tx, statement, 5)
	like := "'%/* " + driver + " */'"
	say("prepared", value(tx, "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE "+like))
	check(tx.Rollback(ctx))
}

// A batch is sent at once; an error takes everything behind it along.
func batches() {
	one := connect()
	batch := &pgx.Batch{}
	for number := 0; number < 5; number++ {
		batch.Queue(statement, number)
	}
	results := one.SendBatch(ctx, batch)
	var values []any
	for range make([]int, 5) {
		var found, pid int
		check(results.QueryRow().Scan(&found, &pid))
		values = append(values, found)
	}
	check(results.Close())
	say("batch", values...)
	batch = &pgx.Batch{}
	for _, divisor := range []int{1, 0, 2} {
		batch.Queue("SELECT 6 / $1::int", divisor)
	}
	results = one.SendBatch(ctx, batch)
	values = nil
	for range make([]int, 3) {
		_, err := results.Exec()
		values = append(values, sqlstate(err))
	}
	results.Close()
	say("batch_error", append(values, value(one, "SELECT 1"))...)
}

func bigResults() {
	rows := must(connect().Query(ctx,
		"SELECT n::int, repeat(chr(97 + (n % 26)::int), 100) AS text FROM generate_series(1, 20000) n"))
	defer rows.Close()
	count, sum, length := 0, 0, 0
	for rows.Next() {
		var number int
		var text string
		check(rows.Scan(&number, &text))
		count, sum = count+1, sum+number
		if text == strings.Repeat(string(rune(97+number%26)), 100) {
			length += len(text)
		}
	}
	check(rows.Err())
	say("big", count, sum, length)
}

func copyBothWays() {
	one := connect()
	table(one)
	var rows [][]any
	expected := ""
	for number := 1; number <= 1000; number++ {
		rows, expected = append(rows, []any{int32(number), "x"}), expected+fmt.Sprintf("%d\tx\n", number)
	}
	must(one.CopyFrom(ctx, pgx.Identifier{"contract"}, []string{"id", "text"}, pgx.CopyFromRows(rows)))
	var out bytes.Buffer
	must(one.PgConn().CopyTo(ctx, &out, "COPY (SELECT * FROM contract ORDER BY id) TO STDOUT"))
	say("copy", value(one, "SELECT count(*) FROM contract"), out.String() == expected)
	wrong := strings.NewReader("1\tx\nnone\tx\n")
	_, err := one.PgConn().CopyFrom(ctx, wrong, "COPY contract FROM STDIN")
	say("copy_error", sqlstate(err), value(one, "SELECT count(*) FROM contract"))
}

func failures() {
	one := connect()
	wrong := func(on querier) string {
		_, err := on.Exec(ctx, "SELECT 1 / $1::int", 0)
		return sqlstate(err)
	}
	say("error", wrong(one), value(one, "SELECT 1"))
	tx := must(one.Begin(ctx))
	first := wrong(tx)
	_, err := tx.Exec(ctx, "SELECT 1")
	check(tx.Rollback(ctx))
	say("error_in_transaction", first, sqlstate(err), value(one, "SELECT 1"))
}

func cancel() {
	one, other, ended := connect(), connect(), make(chan error)
	go func() {
		_, err := one.Exec(ctx, sleep)
		ended <- err
	}()
	active := "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = '" + sleep + "'"
	for value(other, active) == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	check(one.PgConn().CancelRequest(ctx))
	say("cancel", sqlstate(<-ended), value(one, "SELECT 1"))
}

func notify() {
	one, other := connect(), connect()
	execute(one, "LISTEN contract")
	execute(other, "NOTIFY contract, 'told'")
	limited, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	told := must(one.WaitForNotification(limited))
	say("notify", told.Channel, told.Payload)
}

// What `of` makes of the first row of a statement that has changed, or why there is none.
func attempt(conn *pgx.Conn, text string, of func([]any) any) any {
	rows, err := conn.Query(ctx, text, "x")
	if err != nil {
		return sqlstate(err)
	}
	defer rows.Close()
	if !rows.Next() {
		return sqlstate(rows.Err())
	}
	values, err := rows.Values()
	if err != nil {
		return sqlstate(err)
	}
	return of(values)
}

func width(values []any) any {
	return len(values)
}

func identity(values []any) any {
	return values[0]
}

func changed() {
	one, other, holder := connect(), connect(), connect()
	execute(holder, "BEGIN")
	execute(holder, "SELECT 1") // so that a pool of two has one backend left for the two others
	table(other)
	execute(other, "INSERT INTO contract VALUES (1, 'x')")
	text := "SELECT * FROM contract WHERE text = $1 -- " + driver
	found := []any{attempt(one, text, width), attempt(one, text, width)}
	execute(other, "ALTER TABLE contract ADD added int")
	say("changed", append(found, attempt(one, text, width), attempt(one, text, width))...)
}

// The same where the backend that first runs it afterwards has not seen it before.
func changedElsewhere(step string, change string, of func([]any) any) {
	one, held := connect(), []*pgx.Conn{connect(), connect()}
	table(held[0])
	execute(held[0], "INSERT INTO contract VALUES (1, 'x')")
	text := "SELECT *, pg_backend_pid() FROM contract WHERE text = $1 -- " + driver + " " + step + "\n"
	var id, pid int
	var found string
	check(one.QueryRow(ctx, text, "x").Scan(&id, &found, &pid))
	results := []any{attempt(one, text, of)}
	execute(held[0], "ALTER TABLE contract "+change)
	whileTaken(held, pid, func() {
		results = append(results, attempt(one, text, of), attempt(one, text, of))
	})
	say(step, results...)
}

func guarded(name string, step func()) {
	defer func() {
		if err := recover(); err != nil {
			say(name, "failed:", err)
		}
		for _, conn := range open {
			conn.Close(ctx)
		}
		open = nil
	}()
	step()
}

func main() {
	guarded("transactions", transactions)
	guarded("statementMoves", statementMoves)
	guarded("batches", batches)
	guarded("bigResults", bigResults)
	guarded("copyBothWays", copyBothWays)
	guarded("failures", failures)
	guarded("cancel", cancel)
	guarded("notify", notify)
	guarded("changed", changed)
	guarded("widenedElsewhere", func() { changedElsewhere("widened_elsewhere", "ADD added int", width) })
	guarded("retypedElsewhere", func() {
		changedElsewhere("retyped_elsewhere", "ALTER id TYPE bigint", identity)
	})
}
