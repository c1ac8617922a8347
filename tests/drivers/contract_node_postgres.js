// The contract with node-postgres: a query with a name is prepared, one with values has an unnamed statement.
'use strict'
const { pipeline } = require('node:stream/promises')
const { Readable } = require('node:stream')
const { once } = require('node:events')
const { Client, Pool } = require('pg')
const { from, to } = require('pg-copy-streams')
const QueryStream = require('pg-query-stream')
const c = require('./contract.js')

let open = []

async function connect () {
  const client = new Client()
  await client.connect()
  open.push(client)
  return client
}

async function close () {
  await Promise.all(open.map((client) => client.end()))
  open = []
}

const value = async (client, sql, values) => Object.values((await client.query(sql, values)).rows[0])[0]
const named = (n) => ({ name: 'own', text: c.statement, values: [n] })

async function transactions () {
  const [one, other] = [await connect(), await connect()]
  await other.query(c.table)
  await one.query('BEGIN')
  await one.query('INSERT INTO contract VALUES ($1, $2)', [1, 'kept'])
  await one.query('COMMIT')
  c.say('commit', await value(other, 'SELECT count(*) FROM contract'))
  await one.query('BEGIN')
  await one.query('INSERT INTO contract VALUES ($1, $2)', [2, 'gone'])
  await one.query('ROLLBACK')
  c.say('rollback', await value(other, 'SELECT count(*) FROM contract WHERE id = 2'))
}

async function statementMoves () {
  const [one, ...held] = [await connect(), await connect(), await connect()]
  const found = [(await one.query(named(0))).rows[0]]
  for (let number = 1; number < 5; number++) {
    const pids = []
    for (const holder of held) {
      await holder.query('BEGIN')
      pids.push(await value(holder, 'SELECT pg_backend_pid()'))
    }
    // The backend it had stays taken, so the next must be the other.
    await held[pids.findIndex((pid) => pid !== found.at(-1).pid)].query('ROLLBACK')
    found.push((await one.query(named(number))).rows[0])
    for (const holder of held) {
      await holder.query('ROLLBACK')
    }
  }
  c.say('values', ...found.map((row) => row.n))
  c.say('moves', c.moves(found.map((row) => row.pid)))
  await one.query('BEGIN')
  await one.query(named(5))
  c.say('prepared', await value(one, c.prepared))
  await one.query('ROLLBACK')
}

// It queues what it is given at once; its own pool hands clients from task to task.
async function ownPool () {
  const pool = new Pool({ max: 3 })
  const found = await Promise.all(Array.from({ length: 30 }, (_, n) => pool.query(named(n))))
  c.say('own_pool', found.map(({ rows }) => rows[0].n).join(' '))
  await pool.end()
}

async function bigResults () {
  const one = await connect()
  c.say('big', ...c.size((await one.query(c.big)).rows))
  await one.query('BEGIN')
  c.say('cursor', ...c.size(await one.query(new QueryStream(c.big, [], { batchSize: 1000 })).toArray()))
  await one.query('COMMIT')
}

async function copy () {
  const one = await connect()
  await one.query(c.table)
  await pipeline(Readable.from([c.lines]), one.query(from('COPY contract FROM STDIN')))
  const out = await one.query(to('COPY (SELECT * FROM contract ORDER BY id) TO STDOUT')).toArray()
  c.say('copy', await value(one, 'SELECT count(*) FROM contract'), Buffer.concat(out).toString() === c.lines)
  const wrong = pipeline(Readable.from(['1\tx\nnone\tx\n']), one.query(from('COPY contract FROM STDIN')))
  c.say('copy_error', await c.outcome(wrong), await value(one, 'SELECT count(*) FROM contract'))
}

async function errors () {
  const one = await connect()
  const wrong = () => c.outcome(one.query('SELECT 1 / $1::int', [0]))
  c.say('error', await wrong(), await value(one, 'SELECT 1'))
  await one.query('BEGIN')
  const found = [await wrong(), await c.outcome(one.query('SELECT 1'))]
  await one.query('ROLLBACK')
  c.say('error_in_transaction', ...found, await value(one, 'SELECT 1'))
}

async function cancel () {
  const [one, other] = [await connect(), await connect()]
  const query = new (require('pg').Query)(c.sleep)
  one.query(query)
  const ended = once(query, 'end')
  await c.until(async () => await value(other, c.sleeps) === 1)
  new Client().cancel(one, query)
  c.say('cancel', await c.outcome(ended), await value(one, 'SELECT 1'))
}

async function notify () {
  const [one, other] = [await connect(), await connect()]
  await one.query('LISTEN contract')
  const told = once(one, 'notification')
  await other.query("NOTIFY contract, 'told'")
  const [{ channel, payload }] = await told
  c.say('notify', channel, payload)
}

async function changed () {
  const [one, other, holder] = [await connect(), await connect(), await connect()]
  await holder.query('BEGIN') // so that a pool of two has one backend left for the two others
  await other.query(c.table)
  await other.query("INSERT INTO contract VALUES (1, 'x')")
  const query = { name: 'changed', text: `SELECT * FROM contract WHERE id = $1 -- ${c.driver}`, values: [1] }
  const width = () => c.outcome(one.query(query), ({ rows }) => Object.keys(rows[0]).length)
  const found = [await width(), await width()]
  await other.query('ALTER TABLE contract ADD added int')
  c.say('changed', ...found, await width(), await width())
}

c.run([transactions, statementMoves, ownPool, bigResults, copy, errors, cancel, notify, changed], close)
