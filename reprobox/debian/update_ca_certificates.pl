#!/usr/bin/perl
# Stands in for the script update-ca-certificates while dpkg configures packages (install.sh).
#
# The script starts four programs for each of some 140 certificates, and is run twice. This does the same in one
# process for what is usual: no hooks, certificates of the distribution alone, none to be taken away. It looks at
# everything before it changes anything; where something is not usual it becomes the script.
#
# In Perl, which is there before any package is configured: Debian has no system without it.

use strict;

my $script = '/run/reprobox-later/usr/sbin/update-ca-certificates';
my ($list, $certificates) = ('/etc/ca-certificates.conf', '/usr/share/ca-certificates');
my ($others, $hooks) = ('/usr/local/share/ca-certificates', '/etc/ca-certificates/update.d');
my $place = '/etc/ssl/certs';
my $bundle = "$place/ca-certificates.crt";
my $odd = qr/[\x00-\x20\x7f\\(),]/;    # what the script's shell and sed would take for something else

sub become_the_script { exec '/bin/sh', '-e', $script, @ARGV; exit 127 }

sub content {
    open my $file, '<:raw', $_[0] or become_the_script;
    local $/;
    return scalar(<$file>) // '';
}

sub entries {
    opendir my $folder, $_[0] or return;
    return grep { $_ ne '.' && $_ ne '..' } readdir $folder;
}

# The link to a certificate.
sub pem {
    my ($name) = $_[0] =~ m{([^/]+)\z} or become_the_script;
    $name =~ s/(?<=.)\.crt\z//;
    return "$place/$name.pem";
}

my $without_hooks = @ARGV == 2 && $ARGV[0] eq '--hooksdir' && $ARGV[1] eq '';
become_the_script if @ARGV && !$without_hooks;
become_the_script if exists $ENV{TMPDIR} || -x '/sbin/restorecon';
become_the_script if !-s $list || !-d $place || -l $place || -d $bundle || -e "$bundle.new" || -l "$bundle.new";
become_the_script if entries($others) || !$without_hooks && entries($hooks);
become_the_script if grep { $_ =~ $odd || -d "$place/$_" && !-l "$place/$_" } entries($place);

my (@wanted, %content);
become_the_script if content($list) !~ /\n\z/;
for my $line (grep { !/^(#|$)/ } split /\n/, content($list)) {
    my ($deselected, $name) = $line =~ /^(!?)(.*)$/s;
    become_the_script if $name =~ $odd || -d pem($name);
    if ($deselected) {
        become_the_script if -l pem($name);
        next;
    }
    my $path = "$certificates/$name";
    become_the_script if !-f $path;
    $content{$path} = content($path);
    push @wanted, $path;
}
become_the_script if !@wanted;

print "Updating certificates in $place...\n";
chdir $place or die;
my ($added, $all) = (0, '');
for my $path (@wanted) {
    my $pem = pem($path);
    if (!-e $pem || (readlink($pem) // '') ne $path) {
        unlink $pem;
        symlink $path, $pem or die;
        $added++;
    }
    $all .= $content{$path};
    $all .= "\n" if $content{$path} =~ /[^\n]\z/;
}
if ($added) {
    unlink grep { -l $_ && !-e $_ } entries($place);    # what would have `openssl rehash` fail
    system('openssl rehash . >/dev/null') == 0 or exit 1;
}
open my $file, '>:raw', "$bundle.new" or die;
print $file $all or die;
close $file or die;
chmod 0644, "$bundle.new" or die;
rename "$bundle.new", $bundle or die;
print "$added added, 0 removed; done.\n";
print "Running hooks in $hooks...\ndone.\n" if !$without_hooks && -d $hooks;
