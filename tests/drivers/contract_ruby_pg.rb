# The contract with ruby-pg; contract.py says what is printed. It prepares by name what it is told to.
require 'pg'

DRIVER = ARGV[0]
STATEMENT = "SELECT $1::int * 3, pg_backend_pid() /* #{DRIVER} */".freeze
PREPARED = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%/* #{DRIVER} */'".freeze
BIG = 'SELECT n::int, repeat(chr(97 + (n % 26)::int), 100) AS text FROM generate_series(1, 20000) n'.freeze
SLEEP = "SELECT pg_sleep(30) /* #{DRIVER} */".freeze
SLEEPS = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = '#{SLEEP}'".freeze
TABLE = 'DROP TABLE IF EXISTS contract; CREATE TABLE contract (id int, text text)'.freeze

$stdout.sync = true
$open = []

def connect
  $open << PG.connect
  $open.last.set_notice_processor { nil }
  $open.last
end

def say(step, *results)
  puts [step, *results].join(' ').tr("\n", ' ')
end

def value(connection, sql, values = [])
  connection.exec_params(sql, values).getvalue(0, 0)
end

def sqlstate
  yield
  '00000'
rescue PG::Error => error
  error.result.error_field(PG::PG_DIAG_SQLSTATE)
end

def size(rows)
  sum = length = 0
  rows.each do |number, text|
    sum += number.to_i
    length += text.length if text == (97 + number.to_i % 26).chr * 100
  end
  [rows.length, sum, length]
end

def transactions
  one, other = connect, connect
  other.exec(TABLE)
  one.transaction { one.exec_params('INSERT INTO contract VALUES ($1, $2)', [1, 'kept']) }
  say('commit', value(other, 'SELECT count(*) FROM contract'))
  begin
    one.transaction do
      one.exec_params('INSERT INTO contract VALUES ($1, $2)', [2, 'gone'])
      raise 'rollback'
    end
  rescue RuntimeError
    say('rollback', value(other, 'SELECT count(*) FROM contract WHERE id = 2'))
  end
end

def statement_moves
  one, *held = connect, connect, connect
  one.prepare('own', STATEMENT)
  found = []
  5.times do |number|
    pids = held.map { |holder| holder.exec('BEGIN') && value(holder, 'SELECT pg_backend_pid()') }
    # The backend it had stays taken, so the next must be the other.
    held[pids.index { |pid| found.empty? || pid != found.last[1] }].exec('ROLLBACK')
    found << one.exec_prepared('own', [number]).values.first
    held.each { |holder| holder.exec('ROLLBACK') if holder.transaction_status != PG::PQTRANS_IDLE }
  end
  say('values', *found.map(&:first))
  say('moves', found.each_cons(2).count { |before, after| before[1] != after[1] })
  one.exec('BEGIN')
  one.exec_prepared('own', [5])
  say('prepared', value(one, PREPARED))
  one.exec('ROLLBACK')
  say('described', one.describe_prepared('own').nfields, sqlstate { one.prepare('own', 'SELECT 1') },
      sqlstate { one.exec_prepared('other', []) })
end

def pipeline
  one = connect
  one.prepare('own', STATEMENT)
  one.enter_pipeline_mode
  5.times { |number| one.send_query_prepared('own', [number]) }
  one.pipeline_sync
  found = 5.times.map { [one.get_result.getvalue(0, 0), one.get_result].first }
  one.get_result
  say('pipeline', *found)
  [1, 0, 2].each { |divisor| one.send_query_params('SELECT 6 / $1::int', [divisor]) }
  one.pipeline_sync
  states = 3.times.map { [one.get_result.result_status, one.get_result].first }
  one.get_result
  one.exit_pipeline_mode
  say('pipeline_error', *states.map { |state| one.exec('').res_status(state) }, value(one, 'SELECT 1'))
end

def big_results
  one = connect
  say('big', *size(one.exec(BIG).values))
  one.send_query(BIG)
  one.set_single_row_mode
  rows = []
  one.get_result.stream_each_row { |row| rows << row }
  say('big_stream', *size(rows))
end

def copy
  one = connect
  one.exec(TABLE)
  lines = (1..1000).map { |number| "#{number}\tx\n" }
  one.copy_data('COPY contract FROM STDIN') { one.put_copy_data(lines.join) }
  out = ''.dup
  one.copy_data('COPY (SELECT * FROM contract ORDER BY id) TO STDOUT') do
    while (line = one.get_copy_data)
      out << line
    end
  end
  say('copy', value(one, 'SELECT count(*) FROM contract'), out == lines.join)
  state = sqlstate { one.copy_data('COPY contract FROM STDIN') { one.put_copy_data("1\tx\nnone\tx\n") } }
  say('copy_error', state, value(one, 'SELECT count(*) FROM contract'))
end

def errors
  one = connect
  wrong = -> { value(one, 'SELECT 1 / $1::int', [0]) }
  say('error', sqlstate(&wrong), value(one, 'SELECT 1'))
  one.exec('BEGIN')
  found = [sqlstate(&wrong), sqlstate { value(one, 'SELECT 1') }]
  one.exec('ROLLBACK')
  say('error_in_transaction', *found, value(one, 'SELECT 1'))
end

def cancel
  one, other = connect, connect
  one.send_query(SLEEP)
  sleep 0.01 while value(other, SLEEPS) == '0'
  one.cancel
  say('cancel', sqlstate { one.get_last_result }, value(one, 'SELECT 1'))
end

def notify
  one, other = connect, connect
  one.exec('LISTEN contract')
  other.exec("NOTIFY contract, 'told'")
  one.wait_for_notify(10) { |channel, _, payload| say('notify', channel, payload) }
end

def changed
  one, other, holder = connect, connect, connect
  holder.exec('BEGIN') # so that a pool of two has one backend left for the two others
  other.exec(TABLE)
  other.exec("INSERT INTO contract VALUES (1, 'x')")
  one.prepare('changed', "SELECT * FROM contract WHERE id = $1 -- #{DRIVER}")
  width = lambda do
    found = nil
    state = sqlstate { found = one.exec_prepared('changed', [1]).nfields }
    found || state
  end
  found = [width.call, width.call]
  other.exec('ALTER TABLE contract ADD added int')
  say('changed', *found, width.call, width.call)
end

%i[transactions statement_moves pipeline big_results copy errors cancel notify changed].each do |step|
  begin
    send(step)
  rescue StandardError => error
    say(step, 'failed:', error.full_message(highlight: false))
  end
  $open.each(&:close)
  $open.clear
end
