package admin

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"github.com/understudy-ft/understudy/services/fence"
	"github.com/understudy-ft/understudy/services/session"

	"github.com/understudy-ft/understudy/arbiter/internal/sessions"
)

// domain is that of every ErrorInfo.
const domain = "understudy"

// violation says what is wrong with a field of a request; empty: nothing.
type violation struct{ field, what string }

// check refuses a request with violations.
func check(all ...violation) error {
	bad := &errdetails.BadRequest{}
	var said []string
	for _, v := range all {
		if v.field != "" {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: v.field, Description: v.what})
			said = append(said, v.field+": "+v.what)
		}
	}
	if len(said) == 0 {
		return nil
	}
	return detailed(codes.InvalidArgument, strings.Join(said, "; "), bad)
}

// detailed is a gRPC error with details.
func detailed(code codes.Code, text string, details ...protoadapt.MessageV1) error {
	s := status.New(code, text)
	if d, err := s.WithDetails(details...); err == nil {
		s = d
	}
	return s.Err()
}

func info(reason string, more map[string]string) *errdetails.ErrorInfo {
	return &errdetails.ErrorInfo{Reason: reason, Domain: domain, Metadata: more}
}

func noReplica(vm, id string) error {
	return detailed(codes.NotFound, fmt.Sprintf("no replica %s of VM %s is attached", id, vm),
		info("NO_SUCH_REPLICA", map[string]string{"vm": vm, "replica_id": id}))
}

func noArbiter(id string) error {
	return detailed(codes.NotFound, "no arbiter "+id+" holds a lease", info("NO_SUCH_ARBITER", map[string]string{"id": id}))
}

// known are the errors of packages session and sessions: the code, the reason
// of the ErrorInfo, and for a precondition what would have to be done.
var known = []struct {
	is     error
	code   codes.Code
	reason string
	mend   string
}{
	{fence.ErrName, codes.InvalidArgument, "BAD_NAME", ""},
	{sessions.ErrNoVM, codes.NotFound, "NO_SUCH_VM", ""},
	{session.ErrUnknownReplica, codes.NotFound, "NO_SUCH_REPLICA", ""},
	{session.ErrNotProtected, codes.FailedPrecondition, "NOT_PROTECTED", "wait until the VM is protected; VMStatus.summary says what it waits for"},
	{session.ErrIsActive, codes.FailedPrecondition, "IS_ACTIVE", "switch over, fail over or drain it first"},
	{session.ErrNeverStarted, codes.FailedPrecondition, "NEVER_STARTED", "start a primary of this VM"},
	{session.ErrTooMany, codes.ResourceExhausted, "TOO_MANY_DRAINED", ""},
	{session.ErrBusy, codes.Aborted, "BUSY", ""},
	{session.ErrNoRest, codes.Aborted, "NO_REST", ""},
	{session.ErrOvertaken, codes.Aborted, "OVERTAKEN", ""},
	{session.ErrNotOwned, codes.Unavailable, "NOT_OWNED", ""},
	{sessions.ErrGone, codes.Unavailable, "GIVEN_UP", ""},
}

// toStatus gives an error about a VM its gRPC code and details.
func toStatus(err error, vm string) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	var elsewhere *sessions.ElsewhereError
	if errors.As(err, &elsewhere) {
		owner := map[string]string{"vm": vm}
		if o := elsewhere.Owner; o != nil {
			owner["arbiter"], owner["address"], owner["page"] = o.Id, o.Address, o.Page
		}
		return detailed(codes.FailedPrecondition, err.Error(), info("OWNED_ELSEWHERE", owner),
			precondition("OWNER", vm, "ask the arbiter that owns the VM, at the address in ErrorInfo"))
	}
	if errors.Is(err, session.ErrPolicy) {
		return check(violation{"policy", err.Error()})
	}
	for _, k := range known {
		if !errors.Is(err, k.is) {
			continue
		}
		details := []protoadapt.MessageV1{info(k.reason, map[string]string{"vm": vm})}
		if k.mend != "" {
			details = append(details, precondition(k.reason, vm, k.mend))
		}
		return detailed(k.code, err.Error(), details...)
	}
	var etcd rpctypes.EtcdError
	switch {
	case errors.As(err, &etcd):
		return detailed(codes.Unavailable, err.Error(), info("ETCD", map[string]string{"vm": vm}))
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error())
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	}
	return status.Error(codes.Unknown, err.Error())
}

func precondition(kind, subject, mend string) *errdetails.PreconditionFailure {
	return &errdetails.PreconditionFailure{Violations: []*errdetails.PreconditionFailure_Violation{{Type: kind, Subject: subject, Description: mend}}}
}
