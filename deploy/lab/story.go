package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/understudy-ft/understudy/deploy/lab/kvmhost"
	"github.com/understudy-ft/understudy/deploy/story"
)

// Bounds of waiting; emulated hosts on a busy machine take minutes to boot.
const (
	protectTimeout = 20 * time.Minute
	takeTimeout    = 5 * time.Minute
)

// one tells the story of a guest with so many vCPUs.
func (o *options) one(ctx context.Context, cpus int) (_ story.Result, err error) {
	h, err := o.startHosts(cpus)
	if err != nil {
		return story.Result{}, err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	s := story.New(story.Config{
		VM: h.watch(), Redis: h.network.redis(), Alive: h.alive,
		Writers: o.writers, Readers: o.readers, CalmFor: o.calm,
		ProtectTimeout: protectTimeout, TakeTimeout: takeTimeout, Out: os.Stdout,
	})
	defer s.Close()
	if err := h.tell(ctx, s, cpus); err != nil {
		if ctx.Err() == nil { // not interrupted
			fmt.Fprint(os.Stderr, h.tails())
		}
		return s.Result(), err
	}
	return s.Result(), nil
}

func (h *hosts) tell(ctx context.Context, s *story.Story, cpus int) error {
	s.Say("the arbiter's host boots; hosts are linked by %s, their consoles are in %s", h.links, h.dir)
	if err := s.Arbiter(ctx); err != nil {
		return err
	}
	events, stop := context.WithCancel(ctx)
	defer stop()
	go s.Narrate(events)
	s.Say("the primary's host boots, and Debian on its KVM (vCPUs: %d); Redis will be at %s", cpus, h.network.redis())
	if err := h.boot(cpus); err != nil {
		return err
	}
	if err := s.Boot(ctx); err != nil {
		return err
	}
	s.Say("the hosts of %d secondaries boot", h.secondaries)
	if err := h.protect(); err != nil {
		return err
	}
	if err := s.Begin(ctx); err != nil {
		return err
	}
	if err := s.Resync(ctx, h.resyncs); err != nil {
		return err
	}
	if err := h.cut(ctx, s); err != nil {
		return err
	}
	return h.kill(ctx, s)
}

// cut takes the active's host off the network, and puts it back when the heir
// serves.
func (h *hosts) cut(ctx context.Context, s *story.Story) error {
	var id string
	var lost *kvmhost.Host
	if err := s.Lose(ctx, func(active string) (_ string, err error) {
		id = active
		if lost, err = h.of(active); err != nil {
			return "", err
		}
		return fmt.Sprintf("CUT OFF %s (link down)", lost.Name), lost.SetLink(false)
	}); err != nil {
		return err
	}
	if h.secondaries > 1 {
		if err := s.Protected(ctx); err != nil {
			return err
		}
	}
	if err := s.Survived(ctx); err != nil {
		return err
	}
	s.Say("%s is back on the network", lost.Name)
	if err := lost.SetLink(true); err != nil {
		return err
	}
	if err := s.Returned(ctx, lost.Name, id); err != nil {
		return err
	}
	s.Say("%s has found itself refused, and is a spare", lost.Name)
	if h.secondaries == 1 {
		if err := s.Protected(ctx); err != nil {
			return err
		}
	}
	return s.Calm(ctx)
}

// kill ends the active's host.
func (h *hosts) kill(ctx context.Context, s *story.Story) error {
	if err := s.Lose(ctx, func(active string) (string, error) {
		lost, err := h.of(active)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("KILLED %s (SIGKILL, QEMU process %d)", lost.Name, lost.Pid()), lost.Kill()
	}); err != nil {
		return err
	}
	if h.secondaries > 1 {
		if err := s.Protected(ctx); err != nil {
			return err
		}
	}
	if err := s.Survived(ctx); err != nil {
		return err
	}
	return s.End(ctx)
}
