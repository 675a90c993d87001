package admin

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/session"

	"github.com/understudy-ft/understudy/arbiter/internal/sessions"
)

// Every error that an order can end with has a code that fits and a reason that
// a program can decide by; a precondition says what would have to be done.
func TestErrorsHaveCodesAndReasons(t *testing.T) {
	for _, tc := range []struct {
		err    error
		code   codes.Code
		reason string
		mends  bool
	}{
		{sessions.ErrNoVM, codes.NotFound, "NO_SUCH_VM", false},
		{sessions.ErrGone, codes.Unavailable, "GIVEN_UP", false},
		{&sessions.ElsewhereError{VM: "web"}, codes.FailedPrecondition, "OWNED_ELSEWHERE", true},
		{&sessions.ElsewhereError{VM: "web", Owner: &pb.ArbiterRef{Id: "b", Address: "b:1"}}, codes.FailedPrecondition, "OWNED_ELSEWHERE", true},
		{session.ErrUnknownReplica, codes.NotFound, "NO_SUCH_REPLICA", false},
		{session.ErrNotProtected, codes.FailedPrecondition, "NOT_PROTECTED", true},
		{session.ErrIsActive, codes.FailedPrecondition, "IS_ACTIVE", true},
		{session.ErrNeverStarted, codes.FailedPrecondition, "NEVER_STARTED", true},
		{session.ErrTooMany, codes.ResourceExhausted, "TOO_MANY_DRAINED", false},
		{session.ErrBusy, codes.Aborted, "BUSY", false},
		{session.ErrNoRest, codes.Aborted, "NO_REST", false},
		{session.ErrOvertaken, codes.Aborted, "OVERTAKEN", false},
		{session.ErrNotOwned, codes.Unavailable, "NOT_OWNED", false},
		{rpctypes.ErrNoLeader, codes.Unavailable, "ETCD", false},
		{context.DeadlineExceeded, codes.DeadlineExceeded, "", false},
		{context.Canceled, codes.Canceled, "", false},
		{errors.New("something else"), codes.Unknown, "", false},
	} {
		s := status.Convert(toStatus(fmt.Errorf("order: %w", tc.err), "web"))
		if s.Code() != tc.code || s.Message() != "order: "+tc.err.Error() {
			t.Errorf("%v: %v", tc.err, s)
		}
		var reason string
		var mends bool
		for _, d := range s.Details() {
			switch d := d.(type) {
			case *errdetails.ErrorInfo:
				reason = d.Reason
				if d.Domain != domain || d.Metadata["vm"] != "web" {
					t.Errorf("%v: %v", tc.err, d)
				}
			case *errdetails.PreconditionFailure:
				v := d.Violations[0]
				mends = v.Subject == "web" && v.Type != "" && v.Description != ""
			}
		}
		if reason != tc.reason || mends != tc.mends {
			t.Errorf("%v: reason %q, what mends it: %v", tc.err, reason, mends)
		}
	}
}

// What has a status already keeps it, and no error stays none.
func TestStatusStays(t *testing.T) {
	if err := toStatus(nil, "web"); err != nil {
		t.Error(err)
	}
	refused := status.Error(codes.PermissionDenied, "no")
	if err := toStatus(refused, "web"); !errors.Is(err, refused) {
		t.Error(err)
	}
}

// All violations are told at once, by their fields.
func TestCheck(t *testing.T) {
	if err := check(violation{}, name("vm", "VM", "web")); err != nil {
		t.Error(err)
	}
	err := check(name("vm", "VM", "../x"), violation{}, violation{"policy", "is empty"})
	s := status.Convert(err)
	bad, ok := s.Details()[0].(*errdetails.BadRequest)
	if s.Code() != codes.InvalidArgument || !ok || len(bad.FieldViolations) != 2 ||
		bad.FieldViolations[0].Field != "vm" || bad.FieldViolations[1].Field != "policy" {
		t.Errorf("%v %v", s, s.Details())
	}
}
