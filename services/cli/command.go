// Package cli is what Understudy's programs share on the command line: flags
// that can also be set by environment variables, --help and --version, the
// logger, signals, and exit codes.
//
// A program declares its flags on a Command, which is a flag.FlagSet, and hands
// its work to Main:
//
//	cmd := cli.New("arbiter", "compares outputs and decides fail-overs")
//	listen := cmd.String("listen", "127.0.0.1:7400", "`ADDR` to serve gRPC on")
//	cli.Main(cmd, func(ctx context.Context, log hclog.Logger) error { … })
//
// A flag "data-dir" of "arbiter" is also read from UNDERSTUDY_ARBITER_DATA_DIR.
// The command line wins over the environment, which wins over the default.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Exit codes of a program.
const (
	ExitOK    = 0
	ExitError = 1
	ExitUsage = 2
)

// ErrUsage is wrapped by errors that a wrong flag or value causes. A run
// function may wrap it, too, for values that only it can judge.
var ErrUsage = errors.New("try --help")

// Command is a program: its name, its flags and its help text.
type Command struct {
	*flag.FlagSet
	// Summary is one sentence, without the program's name.
	Summary string
	// Examples are shown at the end of --help, one command a line.
	Examples []string
	// Takes, where not empty, names what the program takes beside its flags, such
	// as "VERB [VM]", and About explains it, both in --help. Flags may stand
	// before, between and behind these arguments, which Parse leaves in Operands.
	Takes, About string
	Operands     []string

	logLevel, logFormat string
	version, check      bool
	probe               func(context.Context) error
}

// New returns a command with the flags that every program has: --log-level,
// --log-format and --version.
func New(name, summary string) *Command {
	c := &Command{FlagSet: flag.NewFlagSet(name, flag.ContinueOnError), Summary: summary}
	c.SetOutput(io.Discard) // errors and help are printed by Main
	c.StringVar(&c.logLevel, "log-level", "info", "`LEVEL` of what is logged: trace, debug, info, warn, error or off")
	c.StringVar(&c.logFormat, "log-format", "text", "`FORMAT` of the log on standard error: text or json")
	c.BoolVar(&c.version, "version", false, "print the version and exit")
	return c
}

// AddCheck gives the program a flag --check, with which it does not run but
// asks the one that was started with the same flags and environment whether it
// is well: probe's error is the answer. Images without a shell check their
// health with it.
func (c *Command) AddCheck(probe func(context.Context) error) {
	c.probe = probe
	c.BoolVar(&c.check, "check", false, "ask the program that runs with these flags whether it is well, and exit: 0 if it is")
}

// checkTimeout bounds the probe.
const checkTimeout = 3 * time.Second

// EnvName is the environment variable that sets a flag. A program's name that
// begins with "understudy" does not say so twice.
func (c *Command) EnvName(flagName string) string {
	name := strings.TrimPrefix(c.Name(), "understudy") + "_" + flagName
	return "UNDERSTUDY_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// Parse sets the flags from the arguments (without the program's name), and
// those that the arguments leave out from the environment, as os.LookupEnv
// reads it. An empty variable counts as unset. It returns flag.ErrHelp where
// help was asked for; other errors wrap ErrUsage.
func (c *Command) Parse(args []string, lookup func(string) (string, bool)) error {
	c.Operands = nil
	for {
		if err := c.FlagSet.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return err
			}
			return fmt.Errorf("%w (%w)", err, ErrUsage)
		}
		if c.NArg() == 0 {
			break
		}
		if c.Takes == "" {
			return fmt.Errorf("unexpected argument %q (%w)", c.Arg(0), ErrUsage)
		}
		c.Operands, args = append(c.Operands, c.Arg(0)), c.Args()[1:]
	}
	given := map[string]bool{}
	c.Visit(func(f *flag.Flag) { given[f.Name] = true })
	var err error
	c.VisitAll(func(f *flag.Flag) {
		if err != nil || given[f.Name] || !hasEnv(f.Name) {
			return
		}
		name := c.EnvName(f.Name)
		if v, ok := lookup(name); ok && v != "" {
			if e := c.Set(f.Name, v); e != nil {
				err = fmt.Errorf("invalid value %q in %s: %w (%w)", v, name, e, ErrUsage)
			}
		}
	})
	if err != nil {
		return err
	}
	if hclog.LevelFromString(c.logLevel) == hclog.NoLevel {
		return fmt.Errorf("--log-level %q: must be trace, debug, info, warn, error or off (%w)", c.logLevel, ErrUsage)
	}
	if c.logFormat != "text" && c.logFormat != "json" {
		return fmt.Errorf("--log-format %q: must be text or json (%w)", c.logFormat, ErrUsage)
	}
	return nil
}

func hasEnv(flagName string) bool { return flagName != "version" && flagName != "check" }

// Logger returns the logger that the parsed flags ask for. It is an
// InterceptLogger, to which more sinks may be added.
func (c *Command) Logger(w io.Writer) hclog.Logger {
	return hclog.NewInterceptLogger(&hclog.LoggerOptions{
		Name:       c.Name(),
		Level:      hclog.LevelFromString(c.logLevel),
		Output:     w,
		JSONFormat: c.logFormat == "json",
		TimeFormat: "2006-01-02T15:04:05.000Z07:00",
	})
}

// Help writes the help text.
func (c *Command) Help(w io.Writer) {
	fmt.Fprintf(w, "%s %s.\n\nUsage:\n  %s\n", c.Name(), c.Summary, strings.TrimSpace(c.Name()+" [flags] "+c.Takes))
	if c.About != "" {
		fmt.Fprintf(w, "\n%s\n", c.About)
	}
	fmt.Fprint(w, "\nFlags (each can be set by the environment variable named in brackets):\n")
	var flags []*flag.Flag
	c.VisitAll(func(f *flag.Flag) { flags = append(flags, f) })
	common := func(f *flag.Flag) bool {
		return f.Name == "log-level" || f.Name == "log-format" || f.Name == "version" || f.Name == "check"
	}
	slices.SortStableFunc(flags, func(a, b *flag.Flag) int { // the program's own flags first
		switch {
		case common(a) == common(b):
			return 0
		case common(a):
			return 1
		}
		return -1
	})
	for _, f := range flags {
		arg, usage := flag.UnquoteUsage(f)
		fmt.Fprintf(w, "  --%s", f.Name)
		if arg != "" {
			fmt.Fprintf(w, " %s", arg)
		}
		fmt.Fprintf(w, "\n        %s", strings.ReplaceAll(usage, "\n", "\n        "))
		if d := f.DefValue; d != "" && d != "0" && d != "false" && d != "0s" {
			fmt.Fprintf(w, " (default %s)", d)
		}
		if hasEnv(f.Name) {
			fmt.Fprintf(w, " [%s]", c.EnvName(f.Name))
		}
		fmt.Fprintln(w)
	}
	if len(c.Examples) > 0 {
		fmt.Fprint(w, "\nExamples:\n")
		for _, e := range c.Examples {
			fmt.Fprintf(w, "  %s\n", e)
		}
	}
}

// Run parses the arguments and calls run with the command's logger. It returns
// the exit code. What goes wrong is one line on stderr.
func (c *Command) Run(ctx context.Context, args []string, lookup func(string) (string, bool), stdout, stderr io.Writer,
	run func(context.Context, hclog.Logger) error) int {
	err := c.Parse(args, lookup)
	switch {
	case errors.Is(err, flag.ErrHelp):
		c.Help(stdout)
		return ExitOK
	case err == nil && c.version:
		fmt.Fprintf(stdout, "%s %s\n", c.Name(), Version())
		return ExitOK
	case err == nil && c.check:
		ctx, cancel := context.WithTimeout(ctx, checkTimeout)
		defer cancel()
		err = c.probe(ctx)
	case err == nil:
		err = run(ctx, c.Logger(stderr))
	}
	if err == nil {
		return ExitOK
	}
	fmt.Fprintf(stderr, "%s: %s\n", c.Name(), strings.ReplaceAll(err.Error(), "\n", "; "))
	if errors.Is(err, ErrUsage) {
		return ExitUsage
	}
	return ExitError
}

// Main runs the command with the process's arguments and environment and exits.
// The first SIGINT or SIGTERM ends run's context, for an orderly end; the
// second ends the process.
func Main(c *Command, run func(context.Context, hclog.Logger) error) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		s := <-signals
		fmt.Fprintf(os.Stderr, "%s: second signal (%v): ending at once\n", c.Name(), s)
		os.Exit(ExitError)
	}()
	os.Exit(c.Run(ctx, os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr, run))
}
