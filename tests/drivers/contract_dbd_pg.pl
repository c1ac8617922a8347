#!/usr/bin/perl
# The contract with DBD::Pg, which prepares by name from the second use on; contract.py says what is printed.
# Variants: dbd-pg, and dbd-pg-unprepared with pg_server_prepare = 0.
use strict;
use warnings;
use DBI;
use DBD::Pg qw(:async);
use List::Util qw(first);
use Time::HiRes qw(sleep);

$| = 1;
my $driver = $ARGV[0];
my $text = "SELECT ?::int * 3, pg_backend_pid() /* $driver */";
my $big = "SELECT n::int, repeat(chr(97 + (n % 26)::int), 100) AS text FROM generate_series(1, 20000) n";
my $asleep = "SELECT pg_sleep(30) /* $driver */";
my @open;
my $state;  # of the last error; the driver forgets it when it deallocates a statement

sub connected {
    my ($autocommit) = @_;
    my $dbh = DBI->connect('dbi:Pg:', undef, undef, {
        AutoCommit => $autocommit // 1, RaiseError => 1, PrintError => 0, PrintWarn => 0,
        HandleError => sub { $state = $_[1]->state; return 0; },
        pg_server_prepare => $driver =~ /unprepared/ ? 0 : 1, pg_switch_prepared => 1 });
    push @open, $dbh;
    return $dbh;
}

sub say_that {
    my $line = join ' ', @_;
    $line =~ tr/\n/ /;
    print "$line\n";
}

sub value { my ($dbh, @query) = @_; return $dbh->selectrow_array($query[0], undef, @query[1 .. $#query]); }

sub sqlstate {
    my ($work) = @_;
    return eval { $work->(); 1 } ? '00000' : $state;
}

sub table { $_[0]->do('DROP TABLE IF EXISTS contract'); $_[0]->do('CREATE TABLE contract (id int, text text)'); }

sub transactions {
    my ($one, $other) = (connected(0), connected());
    table($other);
    my $insert = $one->prepare('INSERT INTO contract VALUES (?, ?)');
    $insert->execute(1, 'kept');
    $one->commit;
    say_that('commit', value($other, 'SELECT count(*) FROM contract'));
    $insert->execute(2, 'gone');
    $one->rollback;
    say_that('rollback', value($other, 'SELECT count(*) FROM contract WHERE id = 2'));
    $one->pg_savepoint('own');
    $insert->execute(3, 'gone');
    sqlstate(sub { $one->do('SELECT 1 / 0') });
    $one->pg_rollback_to('own');
    $insert->execute(4, 'kept');
    $one->commit;
    say_that('savepoint', @{ $other->selectcol_arrayref('SELECT id FROM contract ORDER BY id') });
}

sub statement_moves {
    my ($one, @held) = (connected(), connected(0), connected(0));
    my $ask = $one->prepare($text);
    my (@values, $last, $moves);
    for my $number (0 .. 4) {
        my @pids = map { value($_, 'SELECT pg_backend_pid()') } @held;
        # The backend it had stays taken, so the next must be the other.
        my $free = first { $pids[$_] != ($last // 0) } 0 .. 1;
        $held[$free]->rollback;
        $ask->execute($number);
        my ($found, $pid) = $ask->fetchrow_array;
        $ask->finish;
        push @values, $found;
        $moves += defined $last && $pid != $last ? 1 : 0;
        $last = $pid;
        $_->rollback for @held;
    }
    say_that('values', @values);
    say_that('moves', $moves);
    $one->begin_work;
    $ask->execute(5);
    $ask->finish;
    say_that('prepared', value($one, "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%/* $driver */'"));
    $one->rollback;
}

sub big_results {
    my $rows = connected()->selectall_arrayref($big);
    my ($sum, $length) = (0, 0);
    for my $row (@$rows) {
        $sum += $row->[0];
        $length += length $row->[1] if $row->[1] eq chr(97 + $row->[0] % 26) x 100;
    }
    say_that('big', scalar @$rows, $sum, $length);
}

sub copy {
    my $one = connected();
    table($one);
    my $lines = join '', map { "$_\tx\n" } 1 .. 1000;
    $one->do('COPY contract FROM STDIN');
    $one->pg_putcopydata($lines);
    $one->pg_putcopyend;
    $one->do('COPY (SELECT * FROM contract ORDER BY id) TO STDOUT');
    my ($out, $line) = ('', '');
    $out .= $line while $one->pg_getcopydata($line) >= 0;
    say_that('copy', value($one, 'SELECT count(*) FROM contract'), $out eq $lines ? 'true' : 'false');
    $one->do('COPY contract FROM STDIN');
    my $state = sqlstate(sub { $one->pg_putcopydata("1\tx\nnone\tx\n"); $one->pg_putcopyend; });
    say_that('copy_error', $state, value($one, 'SELECT count(*) FROM contract'));
}

sub errors {
    my $one = connected();
    my $division = $one->prepare('SELECT 1 / ?::int');  # its end inside the transaction would be a ROLLBACK
    my $wrong = sub { $division->execute(0) };
    say_that('error', sqlstate($wrong), value($one, 'SELECT 1'));
    $one->begin_work;
    my @found = (sqlstate($wrong), sqlstate(sub { value($one, 'SELECT 1') }));
    $one->rollback;
    say_that('error_in_transaction', @found, value($one, 'SELECT 1'));
}

sub cancel {
    my ($one, $other) = (connected(), connected());
    $one->do($asleep, { pg_async => PG_ASYNC });
    my $active = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = ?";
    sleep 0.01 while value($other, $active, $asleep) == 0;
    $one->pg_cancel;
    say_that('cancel', $one->state, value($one, 'SELECT 1'));
}

sub notify {
    my ($one, $other) = (connected(), connected());
    $one->do('LISTEN contract');
    $other->do("NOTIFY contract, 'told'");
    my $told;
    sleep 0.01 until $told = $one->pg_notifies;
    say_that('notify', $told->[0], $told->[2]);
}

# Columns of three executions before and two after the change.
sub widths {
    my ($step, $change) = @_;
    my ($one, $other, $holder) = (connected(), connected(), connected(0));
    value($holder, 'SELECT 1');  # so that a pool of two has one backend left for the two others
    table($other);
    $other->do("INSERT INTO contract VALUES (1, 'x')");
    my $ask = $one->prepare("SELECT * FROM contract WHERE id = ? -- $driver $step");
    my $width = sub {
        my $found;
        my $ended = sqlstate(sub { $ask->execute(1); $found = scalar @{ $ask->fetchrow_arrayref }; $ask->finish; });
        return $found // $ended;
    };
    my @found = map { $width->() } 1 .. 3;
    $other->do($change);
    say_that($step, @found, $width->(), $width->());
}

sub changed { widths('changed', 'ALTER TABLE contract ALTER text TYPE varchar'); }

# Without a prepared statement the driver crashes by itself when it meets a column more.
sub widened { widths('widened', 'ALTER TABLE contract ADD added int') unless $driver =~ /unprepared/; }

my %steps = (
    transactions => \&transactions, statement_moves => \&statement_moves, big_results => \&big_results, copy => \&copy,
    errors => \&errors, cancel => \&cancel, notify => \&notify, changed => \&changed,
    widened => \&widened);
for my $step (qw(transactions statement_moves big_results copy errors cancel notify changed widened)) {
    eval { $steps{$step}->(); 1 } or say_that($step, 'failed:', $@);
    $_->disconnect for @open;
    @open = ();
}
