# SPDX-License-Identifier: MIT
# Hashes, lists, regular expressions and long strings in Perl; prints sums that depend on all of them.
# usage: perl words.pl
use strict;
use warnings;

my $seed = 42;

sub draw {
    $seed = ($seed * 1103515245 + 12345) % 2147483648;
    return $seed;
}

my (%count, @lines);
for my $n (1 .. 20000) {
    my $line = join ' ', map { 'k' . draw() % 997 } 1 .. 6;
    push @lines, $line;
    $count{$_}++ for split / /, $line;
}
my $total = 0;
$total += $_ for values %count;
die "lost words\n" unless $total == 120000;
print join(',', map { "$_=$count{$_}" } (sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count)[0 .. 9]), "\n";

my $text = join "\n", @lines;
my $changed = ($text =~ s/k(\d)\b/<$1>/g);
print "changed $changed, length ", length($text), "\n";
my %tree;
$tree{$_ % 10}{$_ % 100}{$_} = [ 1 .. $_ % 7 ] for 1 .. 20000;
my $leaves = 0;
for my $a (values %tree) { for my $b (values %$a) { $leaves += @$_ for values %$b } }
print "leaves $leaves\n";
my $long = 'x';
$long .= $long for 1 .. 21;
print 'long ', length($long), ' ', unpack('%32C*', $long), "\n";
my $pid = fork // die "fork: $!\n";
if ($pid == 0) { my @copy = map { "$_!" } @lines; exit(@copy == 20000 ? 0 : 1) }
waitpid $pid, 0;
print "child $?\n";
