package virtio

import (
	"fmt"
	"math"

	"google.golang.org/protobuf/proto"

	understudyv1 "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// StateVersion is the version of the saved state of all devices.
const StateVersion = 1

// errNotPaused keeps a state from being taken in mid-operation.
var errNotPaused = fmt.Errorf("device is not paused")

// Save returns the encoded state of a paused transport and its device.
func (t *Transport) Save() ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.paused.Load() {
		return nil, fmt.Errorf("save %s: %w", t.cfg.Name, errNotPaused)
	}
	s := &understudyv1.VirtioState{
		DeviceType:        t.device.Info().Type,
		Status:            t.status,
		DriverFeatures:    t.driverFeatures,
		DeviceFeaturesSel: t.deviceFeaturesSel,
		DriverFeaturesSel: t.driverFeaturesSel,
		QueueSel:          t.queueSel,
		InterruptStatus:   t.interruptStatus,
	}
	for i := range t.queues {
		q := &t.queues[i]
		s.Queues = append(s.Queues, &understudyv1.VirtqueueState{
			Size:          uint32(q.size),
			Ready:         q.ready,
			Descriptors:   q.descriptors,
			Available:     q.available,
			Used:          q.used,
			NextAvailable: uint32(q.nextAvailable),
			NextUsed:      uint32(q.nextUsed),
		})
	}
	if err := t.device.Save(s); err != nil {
		return nil, fmt.Errorf("save %s: %w", t.cfg.Name, err)
	}
	return proto.Marshal(s)
}

// Prepare checks a saved state as strictly as what a driver does, and returns
// the function that puts it into the transport and its device, which must be
// paused and which cannot fail. Errors wrap ErrState.
func (t *Transport) Prepare(state []byte) (commit func(), err error) {
	commit, err = t.prepare(state)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w: %w", t.cfg.Name, ErrState, err)
	}
	return commit, nil
}

func (t *Transport) prepare(state []byte) (commit func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := new(understudyv1.VirtioState)
	if err := proto.Unmarshal(state, s); err != nil {
		return nil, err
	}
	switch {
	case !t.paused.Load():
		return nil, errNotPaused
	case s.DeviceType != t.device.Info().Type:
		return nil, fmt.Errorf("device type %d, want %d", s.DeviceType, t.device.Info().Type)
	case s.Status&^statusKnown != 0 || !statusInOrder(s.Status):
		return nil, fmt.Errorf("status %#x", s.Status)
	case s.Status&StatusFeaturesOK != 0 && (s.DriverFeatures&^t.Features() != 0 || s.DriverFeatures&FeatureVersion1 == 0):
		return nil, fmt.Errorf("features %#x accepted, offered %#x", s.DriverFeatures, t.Features())
	case s.InterruptStatus&^(interruptUsed|interruptConfig) != 0:
		return nil, fmt.Errorf("interrupt status %#x", s.InterruptStatus)
	case len(s.Queues) != len(t.queues):
		return nil, fmt.Errorf("%d queues, want %d", len(s.Queues), len(t.queues))
	}
	queues := make([]Queue, len(t.queues))
	for i, qs := range s.Queues {
		if qs.Size > math.MaxUint16 || qs.NextAvailable > math.MaxUint16 || qs.NextUsed > math.MaxUint16 {
			return nil, fmt.Errorf("queue %d: size or index of more than 16 bits", i)
		}
		q := &queues[i]
		q.memory, q.max = t.queues[i].memory, t.queues[i].max
		q.size, q.ready = uint16(qs.Size), qs.Ready
		q.descriptors, q.available, q.used = qs.Descriptors, qs.Available, qs.Used
		q.nextAvailable, q.nextUsed = uint16(qs.NextAvailable), uint16(qs.NextUsed)
		q.indirect = s.DriverFeatures&FeatureIndirectDesc != 0
		q.eventIdx = s.DriverFeatures&FeatureEventIdx != 0
		if q.size > q.max {
			return nil, fmt.Errorf("queue %d: size %d, at most %d", i, q.size, q.max)
		}
		if !q.ready {
			continue
		}
		if err := q.validate(); err != nil {
			return nil, fmt.Errorf("queue %d: %w", i, err)
		}
		if s.Status&StatusFeaturesOK == 0 {
			return nil, fmt.Errorf("queue %d: ready before the features were accepted", i)
		}
		// A chain in flight belongs to a device that broke off at an offence.
		if q.nextAvailable != q.nextUsed && s.Status&StatusNeedsReset == 0 {
			return nil, fmt.Errorf("queue %d: %d chains in flight", i, q.nextAvailable-q.nextUsed)
		}
	}
	commitDevice, err := t.device.Prepare(s)
	if err != nil {
		return nil, err
	}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.status, t.driverFeatures = s.Status, s.DriverFeatures
		t.deviceFeaturesSel, t.driverFeaturesSel, t.queueSel = s.DeviceFeaturesSel, s.DriverFeaturesSel, s.QueueSel
		t.interruptStatus = s.InterruptStatus
		for i := range t.queues {
			// Field by field, because a queue must not be copied.
			q, from := &t.queues[i], &queues[i]
			q.size, q.ready = from.size, from.ready
			q.descriptors, q.available, q.used = from.descriptors, from.available, from.used
			q.indirect, q.eventIdx = from.indirect, from.eventIdx
			q.nextAvailable, q.nextUsed, q.completed = from.nextAvailable, from.nextUsed, 0
		}
		commitDevice()
		t.cfg.IRQ(t.interruptStatus != 0)
	}, nil
}
